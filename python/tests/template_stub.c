/* Stands in for libclove_sys.so in the tests: the same entry point and the same hooks, with fork(2) and no walls.
 * A request is a datagram with one descriptor, the agent's socket. Answers 0 in the child, 1 in the parent, -1 at the end. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int clove_template_serve(int control, void (*before)(void), void (*child)(void), void (*parent)(void)) {
    char data[64];
    union { struct cmsghdr align; char bytes[CMSG_SPACE(sizeof(int))]; } space;
    struct iovec piece = {data, sizeof data};
    struct msghdr message = {0};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = space.bytes;
    message.msg_controllen = sizeof space.bytes;
    ssize_t n = recvmsg(control, &message, 0);
    if (n < 0) return errno == ECONNRESET ? -1 : -errno;
    if (n == 0) return -1;
    if (data[0] == '!') return -EAGAIN; /* as if the fork had failed */
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    int fd = -1;
    if (head) memcpy(&fd, CMSG_DATA(head), sizeof fd);
    before();
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fd, 3);
        if (fd != 3) close(fd);
        child();
        return 0;
    }
    int saved = errno;
    parent();
    close(fd);
    if (pid < 0) return -saved;
    waitpid(pid, 0, WNOHANG);
    return 1;
}
