#!/bin/bash
# What a C and C++ compiler, its linkers, make and what they build do. Prints `ok`.
set -euo pipefail
cd "$(mktemp -d)"
cat > a.c <<'END'
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <threads.h>
#include <unistd.h>
extern char **environ;
static pthread_mutex_t m = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t c = PTHREAD_COND_INITIALIZER;
static void *f(void *a) { pthread_mutex_lock(&m); pthread_cond_signal(&c); pthread_mutex_unlock(&m); return a; }
int main(void) {
    pthread_t t[4];
    for (int i = 0; i < 4; i++) if (pthread_create(&t[i], 0, f, 0)) return 1;
    for (int i = 0; i < 4; i++) pthread_join(t[i], 0);
    pthread_mutexattr_t a; pthread_mutexattr_init(&a);
    pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST); pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
    pthread_mutex_t r; pthread_mutex_init(&r, &a); pthread_mutex_lock(&r); pthread_mutex_unlock(&r);
    sem_t s; sem_init(&s, 0, 1); sem_wait(&s); sem_post(&s);
    pid_t p; char *argv[] = {"true", 0};
    if (posix_spawn(&p, "/bin/true", 0, 0, argv, environ)) return 2;
    waitpid(p, 0, 0);
    if (vfork() == 0) _exit(0);
    wait(0); system("true"); pclose(popen("true", "r"));
    void *big = malloc(1 << 26); free(big); thrd_yield();
    FILE *tmp = tmpfile(); fputs("x", tmp); fclose(tmp);
    puts("built"); return 0;
}
END
cat > b.cc <<'END'
#include <chrono>
#include <filesystem>
#include <fstream>
#include <future>
#include <iostream>
#include <random>
#include <thread>
#include <vector>
int main() {
    std::random_device seed; std::mt19937 g(seed());
    auto f = std::async(std::launch::async, [] { return 42; });
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::filesystem::remove_all("d2"); std::filesystem::create_directories("d/e"); std::ofstream("d/e/f") << 1;
    std::filesystem::copy("d", "d2", std::filesystem::copy_options::recursive);
    for (auto &e : std::filesystem::recursive_directory_iterator("d2")) (void)std::filesystem::last_write_time(e);
    std::filesystem::remove_all("d"); (void)std::filesystem::space("."); std::filesystem::resize_file("d2/e/f", 10);
    try { throw 1; } catch (int) { std::cout << f.get() << "\n"; }
}
END
gcc -g -O2 -Wall -pthread a.c -o a; ./a | grep -q built
gcc -static -pthread a.c -o s 2>/dev/null && ./s | grep -q built
gcc -c -fPIC a.c; gcc -shared a.o -o liba.so; ar rcs liba.a a.o; nm a.o > /dev/null; objdump -d a > /dev/null; strip a; size a > /dev/null
gcc -pipe -save-temps -c a.c; gcc -fsanitize=undefined a.c -o u -pthread 2>/dev/null && ./u > /dev/null
! command -v g++ > /dev/null || { g++ -std=c++17 -O1 b.cc -o b -pthread; ./b | grep -q 42; g++ -flto=2 -O2 b.cc -o b -pthread; ./b > /dev/null; }
for linker in gold lld; do ! command -v ld.$linker > /dev/null || gcc -fuse-ld=$linker -pthread a.c -o l; done
printf 'all: x y\nx: a.c\n\tgcc -c a.c -o x\ny: a.c\n\tgcc -c a.c -o y\n' > Makefile
! command -v make > /dev/null || make -s -j2
! command -v gdb > /dev/null || gdb --batch -ex 'list main' ./u > /dev/null 2>&1 || true
echo ok
