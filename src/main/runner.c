/* The jailed process that owns function VMs; started by the daemon, never by hand. */
int main(void)
{
    return 64;
}
