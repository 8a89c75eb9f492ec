#!/bin/bash
# What git does with a repository of its own. Prints `ok`.
set -euo pipefail
export HOME; HOME=$(mktemp -d); cd "$HOME"
git config --global user.email a@b.c; git config --global user.name n; git config --global init.defaultBranch main
git init -q one; cd one
for i in 1 2 3; do seq "$i" 2000 > "f$i"; git add .; git commit -qm "c$i"; done
git checkout -qb side HEAD~1; echo x > side; git add side; git commit -qm side; git rebase -q main; git checkout -q main; git merge -q side
git log --stat > /dev/null; git diff HEAD~2 > /dev/null; git status > /dev/null; git blame f1 > /dev/null; git grep -c 100 > /dev/null
echo y >> f1; git stash -q; git stash pop -q; git tag t; git gc -q; git fsck 2> /dev/null; git repack -adq; git worktree add -q ../tree HEAD~1
git clone -q . ../two; git clone -q --no-local . ../three; cd ../two; git pull -q; git push -q origin HEAD:other; git archive HEAD | tar t > /dev/null
echo ok
