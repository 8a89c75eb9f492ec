# What the probing programs share; put in front of each. `probe(NAME)` tries something in a child, so that nothing of it
# stays, and notes in `results` "ok" (it worked) or the errno's name.
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)

def sc(nr, *a):
    r = libc.syscall(ctypes.c_long(nr), *[ctypes.c_void_p(x) if isinstance(x, int) else x for x in a])
    if r < 0:
        raise OSError(ctypes.get_errno(), "")
    return r

def forked(f):
    """In a child, so that nothing of it stays."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            f(); e = 0
        except OSError as x:
            e = x.errno
        except BaseException:
            e = 255
        os.write(w, bytes([e])); os._exit(0)
    os.close(w)
    got = os.read(r, 1); os.close(r); os.waitpid(pid, 0)
    if not got:
        raise OSError(errno.EIO, "killed")
    if got[0]:
        raise OSError(got[0], "")

results = {}
def probe(name):
    def deco(f):
        try:
            forked(f)
            results[name] = "ok"
        except OSError as e:
            results[name] = errno.errorcode.get(e.errno, str(e.errno))
    return deco
