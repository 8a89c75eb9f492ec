/* Ignores every signal that can be ignored, with as many children as its argument says, which do the same. Linked statically. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    int children = argc > 1 ? atoi(argv[1]) : 0;
    for (int s = 1; s < NSIG; s++)
        signal(s, SIG_IGN);
    for (int i = 0; i < children; i++) {
        pid_t child = fork();
        if (child < 0)
            return 1;
        if (child == 0)
            for (;;)
                pause();
    }
    if (write(1, "ready\n", 6) != 6)
        return 1;
    for (;;)
        pause();
}
