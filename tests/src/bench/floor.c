/* The floor of the bench: the kernel operations of one ADD or DEL and nothing else.
 *
 * No JSON is read, nothing is checked, nothing is undone: it shows what the kernel and the start
 * of a process cost, so that everything above it is the plugin's own. It is called like a plugin
 * (CNI_COMMAND, CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, configuration on standard input) with the
 * directory of the leases as its argument. `floor rss FILE PROGRAM ...` runs a program instead and
 * writes its peak resident memory in KiB to FILE: a small parent, because a process starts with
 * the peak of the one that spawned it (exec_mmap, fs/exec.c).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define HOST_INDEX_BASE 0x100000
#define POD_INDEX 2
#define LINK_GROUP 112

/* The messages for one namespace, sent at once. */
struct batch {
	char bytes[4096];
	size_t length;
	struct nlmsghdr *last;
};

static void fail(const char *what)
{
	fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void *append(struct batch *b, const void *data, size_t length)
{
	void *at = b->bytes + b->length;
	memcpy(at, data, length);
	b->length += NLMSG_ALIGN(length);
	return at;
}

static void begin(struct batch *b, int kind, int flags, const void *body, size_t length)
{
	struct nlmsghdr header = {.nlmsg_type = kind, .nlmsg_flags = NLM_F_REQUEST | flags};
	b->last = append(b, &header, sizeof header);
	append(b, body, length);
}

static struct rtattr *put(struct batch *b, int kind, const void *data, size_t length)
{
	struct rtattr header = {.rta_len = RTA_LENGTH(length), .rta_type = kind};
	struct rtattr *at = append(b, &header, sizeof header);
	if (length)
		append(b, data, length);
	return at;
}

static void end_nest(struct batch *b, struct rtattr *nest)
{
	nest->rta_len = b->bytes + b->length - (char *)nest;
}

static void end(struct batch *b)
{
	b->last->nlmsg_len = b->bytes + b->length - (char *)b->last;
}

/* Sends the batch; the last message is acknowledged, the others speak only if they fail. */
static void commit(int socket, struct batch *b, const char *what)
{
	char answer[4096];
	b->last->nlmsg_flags |= NLM_F_ACK;
	if (send(socket, b->bytes, b->length, 0) < 0)
		fail(what);
	ssize_t length = recv(socket, answer, sizeof answer, 0);
	struct nlmsghdr *header = (struct nlmsghdr *)answer;
	if (length < (ssize_t)sizeof *header || header->nlmsg_type != NLMSG_ERROR)
		fail(what);
	errno = -((struct nlmsgerr *)NLMSG_DATA(header))->error;
	if (errno)
		fail(what);
}

static int route_socket(void)
{
	int s = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (s < 0)
		fail("socket");
	return s;
}

static void link_up(struct batch *b, int index)
{
	struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	begin(b, RTM_NEWLINK, 0, &link, sizeof link);
	end(b);
}

static void address(struct batch *b, int index, const char *text)
{
	struct in_addr ip;
	struct ifaddrmsg body = {.ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = index};
	inet_pton(AF_INET, text, &ip);
	begin(b, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
	put(b, IFA_LOCAL, &ip, sizeof ip);
	put(b, IFA_ADDRESS, &ip, sizeof ip);
	end(b);
}

static void route(struct batch *b, int index, const char *to, int prefix, const char *via,
		  const char *from, int scope)
{
	struct in_addr ip;
	struct rtmsg body = {.rtm_family = AF_INET,
			     .rtm_dst_len = prefix,
			     .rtm_table = RT_TABLE_MAIN,
			     .rtm_protocol = RTPROT_BOOT,
			     .rtm_scope = scope,
			     .rtm_type = RTN_UNICAST};
	begin(b, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &body, sizeof body);
	inet_pton(AF_INET, to, &ip);
	put(b, RTA_DST, &ip, sizeof ip);
	if (via) {
		inet_pton(AF_INET, via, &ip);
		put(b, RTA_GATEWAY, &ip, sizeof ip);
	}
	if (from) {
		inet_pton(AF_INET, from, &ip);
		put(b, RTA_PREFSRC, &ip, sizeof ip);
	}
	put(b, RTA_OIF, &index, sizeof index);
	end(b);
}

/* A name and an address that no other has. */
static void end_of_pair(struct batch *b, const char *name)
{
	unsigned char mac[6];
	if (getrandom(mac, sizeof mac, 0) != sizeof mac)
		fail("getrandom");
	mac[0] = (mac[0] & 0xfe) | 2;
	put(b, IFLA_IFNAME, name, strlen(name) + 1);
	put(b, IFLA_ADDRESS, mac, sizeof mac);
}

static void pair(struct batch *b, const char *host, int index, const char *pod, int netns)
{
	int group = LINK_GROUP;
	struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
	struct ifinfomsg peer = {.ifi_index = POD_INDEX};
	begin(b, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &link, sizeof link);
	end_of_pair(b, host);
	put(b, IFLA_GROUP, &group, sizeof group);
	struct rtattr *info = put(b, IFLA_LINKINFO, NULL, 0);
	put(b, IFLA_INFO_KIND, "veth", 4);
	struct rtattr *data = put(b, IFLA_INFO_DATA, NULL, 0);
	struct rtattr *other = put(b, VETH_INFO_PEER, NULL, 0);
	append(b, &peer, sizeof peer);
	end_of_pair(b, pod);
	put(b, IFLA_NET_NS_FD, &netns, sizeof netns);
	end_nest(b, other);
	end_nest(b, data);
	end_nest(b, info);
	end(b);
}

static void host_name(char *name, const char *id)
{
	snprintf(name, IFNAMSIZ, "vf%s", id + (strlen(id) > 13 ? strlen(id) - 13 : 0));
}

static int take_lock(const char *directory)
{
	char path[512];
	snprintf(path, sizeof path, "%s/lock", directory);
	int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (lock < 0 || flock(lock, LOCK_EX))
		fail(path);
	return lock;
}

/* Takes the address behind the last one of 10.88.0.0/16; the text of it goes to `ip`. */
static void take_lease(const char *directory, const char *id, const char *ifname, char *ip)
{
	char path[512], last[512], text[512] = "";
	struct in_addr address = {htonl(0x0a580001)};
	int lock = take_lock(directory);
	snprintf(last, sizeof last, "%s/last_reserved_ip.0", directory);
	int counter = open(last, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (counter < 0)
		fail(last);
	if (read(counter, text, sizeof text - 1) > 0)
		inet_pton(AF_INET, text, &address);
	for (;;) {
		address.s_addr = htonl(0x0a580000 | ((ntohl(address.s_addr) + 1) & 0xffff));
		inet_ntop(AF_INET, &address, ip, INET_ADDRSTRLEN);
		snprintf(path, sizeof path, "%s/%s", directory, ip);
		int lease = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (lease >= 0) {
			dprintf(lease, "%s\r\n%s", id, ifname);
			close(lease);
			break;
		}
	}
	if (ftruncate(counter, 0) || pwrite(counter, ip, strlen(ip), 0) < 0)
		fail(last);
	/* Where DEL finds the address again without reading every lease. */
	snprintf(path, sizeof path, "%s/of-%s", directory, id);
	int index = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (index < 0 || write(index, ip, strlen(ip)) < 0)
		fail(path);
	close(index);
	close(counter);
	close(lock);
}

static void give_lease_back(const char *directory, const char *id)
{
	char index[512], path[512], ip[64] = "";
	int lock = take_lock(directory);
	snprintf(index, sizeof index, "%s/of-%s", directory, id);
	int file = open(index, O_RDONLY | O_CLOEXEC);
	if (file < 0 || read(file, ip, sizeof ip - 1) <= 0)
		fail(index);
	snprintf(path, sizeof path, "%s/%s", directory, ip);
	if (unlink(path) || unlink(index))
		fail(path);
	close(file);
	close(lock);
}

static void add(const char *directory, const char *id, const char *netns, const char *ifname)
{
	static struct batch host, pod;
	char name[IFNAMSIZ], ip[INET_ADDRSTRLEN];
	unsigned random;
	take_lease(directory, id, ifname, ip);
	int here = route_socket();
	int home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	int there = open(netns, O_RDONLY | O_CLOEXEC);
	if (there < 0 || setns(there, CLONE_NEWNET))
		fail(netns);
	int inside = route_socket();
	if (setns(home, CLONE_NEWNET))
		fail("setns");
	if (getrandom(&random, sizeof random, 0) != sizeof random)
		fail("getrandom");
	int index = HOST_INDEX_BASE + random % HOST_INDEX_BASE;
	host_name(name, id);
	pair(&host, name, index, ifname, there);
	address(&host, index, "10.88.0.1");
	route(&host, index, ip, 32, NULL, NULL, RT_SCOPE_HOST);
	struct ifinfomsg link = {.ifi_index = index};
	begin(&host, RTM_NEWLINK, 0, &link, sizeof link);
	put(&host, IFLA_IFALIAS, id, strlen(id) + 1);
	end(&host);
	commit(here, &host, "host end");
	link_up(&pod, 1);
	address(&pod, POD_INDEX, ip);
	link_up(&pod, POD_INDEX);
	route(&pod, POD_INDEX, "10.88.0.1", 32, NULL, ip, RT_SCOPE_LINK);
	route(&pod, POD_INDEX, "0.0.0.0", 0, "10.88.0.1", NULL, RT_SCOPE_UNIVERSE);
	commit(inside, &pod, "pod end");
	printf("{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"%s/32\"}]}\n", ip);
}

static void del(const char *directory, const char *id)
{
	static struct batch host;
	char name[IFNAMSIZ];
	struct ifinfomsg link = {0};
	host_name(name, id);
	int here = route_socket();
	begin(&host, RTM_DELLINK, 0, &link, sizeof link);
	put(&host, IFLA_IFNAME, name, strlen(name) + 1);
	end(&host);
	commit(here, &host, "delete");
	give_lease_back(directory, id);
}

static int rss(const char *file, char **program)
{
	int status;
	struct rusage usage;
	pid_t child = vfork();
	if (child == 0) {
		execv(program[0], program);
		_exit(127);
	}
	if (child < 0 || wait4(child, &status, 0, &usage) != child)
		fail(program[0]);
	FILE *out = fopen(file, "w");
	if (!out)
		fail(file);
	fprintf(out, "%ld\n", usage.ru_maxrss);
	fclose(out);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

int main(int argc, char **argv)
{
	char input[4096];
	if (argc > 3 && !strcmp(argv[1], "rss"))
		return rss(argv[2], argv + 3);
	const char *command = getenv("CNI_COMMAND"), *id = getenv("CNI_CONTAINERID");
	const char *netns = getenv("CNI_NETNS"), *ifname = getenv("CNI_IFNAME");
	if (argc != 2 || !command || !id || !netns || !ifname) {
		fprintf(stderr, "floor: call it as a plugin, with the lease directory\n");
		return 2;
	}
	while (read(0, input, sizeof input) > 0)
		;
	if (!strcmp(command, "ADD"))
		add(argv[1], id, netns, ifname);
	else
		del(argv[1], id);
	return 0;
}
