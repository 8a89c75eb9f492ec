#!/bin/bash
# What programs do on a terminal of their own. Prints `ok`.
set -eu
export TERM="${TERM:-vt100}"
stty -a > /dev/null; stty -echo; stty echo; stty size > /dev/null; tty > /dev/null; test -t 0
# Interactive: line editing, job control, history.
printf 'echo $((1+1))\nsleep 5 &\njobs\nkill %%1\nexit 0\n' | bash --norc -i > /dev/null 2>&1 || true
bash --norc -ic 'sleep 0.02 & fg; bind -l > /dev/null; true' > /dev/null
! command -v python3 > /dev/null || printf '1+1\nexit()\n' | python3 -i > /dev/null 2>&1
! command -v python3 > /dev/null || python3 -c 'import readline, getpass, curses; curses.setupterm(); readline.parse_and_bind("tab: complete")'
! command -v node > /dev/null || node -e 'process.stdout.columns; process.stdin.setRawMode(true); process.stdin.setRawMode(false); process.stdin.unref()'
! command -v less > /dev/null || less -E /etc/passwd > /dev/null
! command -v vim > /dev/null || vim -u NONE -c 'q!' > /dev/null 2>&1 || true
! command -v top > /dev/null || top -n 1 > /dev/null || true
! command -v ls > /dev/null || ls --color=auto -C / > /dev/null
clear > /dev/null 2>&1 || true
echo ok
