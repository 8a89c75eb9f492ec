/* Ends at once: what is timed is the sandbox around it. Linked statically. */
int main(void)
{
    return 0;
}
