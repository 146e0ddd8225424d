/*
 * A link with a rate and a delay between two network namespaces, for kernels without netem:
 *
 *   link NAMESPACE NAMESPACE MBIT_PER_SECOND DELAY_MS QUEUE_BYTES
 *
 * It creates the interface "lnk" in each of them and forwards packets between the two. DELAY_MS is
 * that of one direction. What does not fit into the queue is dropped. Packets are forwarded as the
 * kernel hands them over, not cut into segments, so that two processors suffice for 10 Gbit/s.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
    SLOT = 66000,        /* the longest packet, with the header of the interface */
    HEADER = 10,         /* struct virtio_net_hdr */
    SEGMENT = 1448,      /* bytes of TCP in a frame of Ethernet */
    OVERHEAD = 50,       /* headers of a segment and its frame */
    MAX_PACKETS = 16384, /* in flight, in each direction */
    SHORTEST_WAIT = 50000,
};

static double rate;
static int64_t delay, queue;

struct direction { int in, out; };
struct packet { int64_t when; ssize_t len; };

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int open_interface(const char *name)
{
    char path[256];
    snprintf(path, sizeof path, "/var/run/netns/%s", name);
    int namespace = open(path, O_RDONLY);
    if (namespace < 0 || setns(namespace, CLONE_NEWNET)) fail(path);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    if (fd < 0) fail("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR, .ifr_name = "lnk"};
    if (ioctl(fd, TUNSETIFF, &request)) fail("TUNSETIFF");
    if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4)) fail("TUNSETOFFLOAD");
    return fd;
}

static void *forward(void *argument)
{
    struct direction *d = argument;
    prctl(PR_SET_TIMERSLACK, 1000);
    char *bytes = malloc((size_t)MAX_PACKETS * SLOT);
    struct packet *packets = calloc(MAX_PACKETS, sizeof *packets);
    if (!bytes || !packets) fail("malloc");
    long head = 0, count = 0;
    int64_t departure = 0;
    for (;;) {
        int64_t time = now();
        while (count && packets[head].when <= time) {
            ssize_t n = write(d->out, bytes + head * SLOT, packets[head].len);
            if (n < 0 && errno == EAGAIN) break;
            head = (head + 1) % MAX_PACKETS;
            count--;
        }
        int received = 0;
        while (received < 64 && count < MAX_PACKETS) {
            long slot = (head + count) % MAX_PACKETS;
            ssize_t len = read(d->in, bytes + slot * SLOT, SLOT);
            if (len <= HEADER) break;
            received++;
            int64_t size = len - HEADER;
            size += (size + SEGMENT - 1) / SEGMENT * OVERHEAD;
            if (departure < time) departure = time;
            if ((departure - time) * rate / 8e9 > queue) continue;
            departure += (int64_t)(size * 8e9 / rate);
            packets[slot] = (struct packet){departure + delay, len};
            count++;
        }
        if (received) continue;
        int64_t wait = count ? packets[head].when - now() : INT64_C(1000000000);
        if (wait < SHORTEST_WAIT) wait = SHORTEST_WAIT;
        struct timespec pause = {wait / 1000000000, wait % 1000000000};
        struct pollfd in = {.fd = d->in, .events = POLLIN};
        ppoll(&in, 1, &pause, NULL);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    if (argc != 6) {
        fprintf(stderr, "usage: link NAMESPACE NAMESPACE MBIT_PER_SECOND DELAY_MS QUEUE_BYTES\n");
        return 2;
    }
    rate = atof(argv[3]) * 1e6;
    delay = (int64_t)(atof(argv[4]) * 1e6);
    queue = atoll(argv[5]);
    int a = open_interface(argv[1]), b = open_interface(argv[2]);
    struct direction there = {a, b}, back = {b, a};
    pthread_t thread;
    if (pthread_create(&thread, NULL, forward, &there)) fail("pthread_create");
    forward(&back);
}
