#!/bin/bash
# What bash, coreutils and the small tools around them do. Prints `ok`; what isn't installed is passed over.
set -euo pipefail
cd "$(mktemp -d)"
have() { command -v "$1" >/dev/null; }

# The shell itself.
for i in 1 2 3; do echo "$i"; done | { read -r a; [ "$a" = 1 ]; }
(exit 3) || [ $? = 3 ]
trap 'true' USR1 EXIT; kill -USR1 $$
cat <(echo a) <(echo b) > both; [ "$(wc -l < both)" = 2 ]
cat <<'END' > here
text
END
cat <<< word > /dev/null
sleep 5 & kill $!; wait $! || true
sleep 0.01 & sleep 0.01 & wait -n; wait
read -r -t 0.01 x < <(sleep 0.05) || true
ulimit -n; ulimit -a > /dev/null; umask 022; times > /dev/null
set -m; sleep 0.02 & jobs > /dev/null; fg > /dev/null; set +m
exec 5<>both; read -r line <&5; exec 5>&-
coproc cat; echo x >&"${COPROC[1]}"; read -r x <&"${COPROC[0]}"; kill "$COPROC_PID"; wait "$COPROC_PID" 2>/dev/null || true
printf '%(%s)T' -1 > /dev/null; [ -r both ] && [ both -ef ./both ] && [ -w . ]
echo "$RANDOM $SECONDS $EPOCHREALTIME $PPID $UID $(umask)" > /dev/null
sh -c 'echo dash; exec true'
bash -c 'kill -STOP $$' & p=$!; sleep 0.05; kill -CONT $p; wait $p

# Files.
mkdir -p a/b/c; touch a/f a/b/g; touch -d yesterday a/f; ln a/f a/h; ln -s f a/l; readlink -f a/l > /dev/null; realpath a > /dev/null
seq 10000 > a/numbers; head -c 3000000 /dev/urandom > a/big
cp -a a copy; cp --sparse=always a/big a/sparse; cp --reflink=auto a/big a/ref; mv copy copy2; mv copy2/f copy2/f2; install -m 755 a/f a/i
ls -laR . > /dev/null; ls --color=always -i a > /dev/null; stat a/f > /dev/null; stat -f . > /dev/null; du -sh . > /dev/null; df . > /dev/null
find . -type f -newer a/f -size +1k -exec test -e {} \; -print0 | xargs -0 -n 1 -P 2 wc -c > /dev/null
chmod -R u+w a; chown "$(id -u):$(id -g)" a/f; chgrp "$(id -g)" a/f; truncate -s 100 a/f; mktemp -p . > /dev/null; mkfifo pipe
dd if=a/big of=a/dd bs=64k conv=fsync status=none; split -n 3 a/big part.; cat part.* | cmp - a/big; shred -u -n 1 part.aa
sync a/big; sync -d a/big; fallocate -l 1M a/fall 2>/dev/null || true
timeout 0.05 tail -f a/numbers > /dev/null || true; timeout -s KILL 0.02 sleep 5 || true
(cat pipe > /dev/null & echo x > pipe; wait)
(flock -n 9; echo locked) 9> lock > /dev/null
rm -rf copy2; rmdir a/b/c; unlink a/l

# Text.
sort -R a/numbers | sort -n --parallel=2 -S 100k | uniq | tail -1 > /dev/null; sort -u a/numbers -o sorted
grep -c 7 a/numbers > /dev/null; grep -r text . > /dev/null; sed -i s/1/2/ a/numbers; sed -n 1,3p a/numbers > /dev/null
awk '{s+=$1} END {print s; system("true")}' a/numbers > /dev/null
cut -c1 a/numbers | tr 0-9 a-j | tee t1 t2 | paste - - | column 2>/dev/null | fold | nl | tac | rev 2>/dev/null | od -c | head -1 > /dev/null || true
comm sorted sorted > /dev/null; join sorted sorted > /dev/null; diff here both > /dev/null || true; sha256sum a/big | sha256sum -c > /dev/null; md5sum a/big > /dev/null
base64 a/big | base64 -d | cmp - a/big; expr 1 + 1 > /dev/null; date > /dev/null; factor 1234567890 > /dev/null; numfmt --to=iec 10000 > /dev/null
printf 'a\n' > left; printf 'b\n' > right; diff -u left right > d || true; ! have patch || patch -s left d

# Archives and the system.
tar czf x.tgz a; tar xzf x.tgz -C "$(mktemp -d)"; ! have xz || tar cJf x.txz here; ! have bzip2 || bzip2 -k here; ! have zip || { zip -qr x.zip a; unzip -qo x.zip; }
! have zstd || zstd -q -T2 here
id > /dev/null; whoami > /dev/null; groups > /dev/null; uname -a > /dev/null; nproc > /dev/null; env > /dev/null; hostname > /dev/null; arch > /dev/null; tty > /dev/null || true; who > /dev/null 2>&1 || true
nice -n 1 true; nohup true 2> /dev/null; setsid true; stdbuf -o0 true; env -i /bin/true; taskset -p $$ > /dev/null 2>&1 || true; getent passwd "$(id -u)" > /dev/null
! have ps || { ps aux > /dev/null; ! have free || free > /dev/null; uptime > /dev/null 2>&1 || true; ! have pgrep || pgrep bash > /dev/null; }
! have top || top -bn1 > /dev/null || true
! have perl || perl -e 'use Socket; use POSIX; socketpair(A,B,AF_UNIX,SOCK_STREAM,0); fork || exit; wait; open(F,"<","/etc/passwd"); flock(F,1); select(undef,undef,undef,0.01); print `echo`; local $SIG{ALRM}=sub{}; alarm 1; ' > /dev/null
! have jq || echo '{"a":1}' | jq .a > /dev/null
! have bc || echo '2^100' | bc > /dev/null
! have sqlite3 || sqlite3 x.db 'create table t(a); insert into t values(1); select * from t;' > /dev/null
! have curl || curl -s --max-time 1 http://127.0.0.1:9/ > /dev/null || true
! have vim || vim -es -c 'q!' here 2>/dev/null || true
! have less || less -F here < /dev/null > /dev/null || true
! have git || { git --version > /dev/null; }
echo ok
