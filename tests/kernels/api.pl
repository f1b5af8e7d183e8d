#!/usr/bin/perl
# As much of an API server as a kube-proxy needs: api.pl PORT. It has one node, `machine`, and one
# Service of two endpoints, none of which ever changes.
use strict;
use warnings;
use Socket;

my ($port) = @ARGV;
my %lists = (
    '/api/v1/nodes' => ['v1', 'NodeList', '{"metadata":{"name":"machine","uid":"1","resourceVersion":"1"},
        "spec":{"podCIDR":"10.10.1.0/24","podCIDRs":["10.10.1.0/24"]},
        "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.10"}]}}'],
    '/api/v1/services' => ['v1', 'ServiceList', '{"metadata":{"name":"web","namespace":"default","uid":"2","resourceVersion":"1"},
        "spec":{"type":"NodePort","clusterIP":"10.200.1.63","clusterIPs":["10.200.1.63"],"ipFamilies":["IPv4"],
        "ipFamilyPolicy":"SingleStack","internalTrafficPolicy":"Cluster","externalTrafficPolicy":"Cluster",
        "sessionAffinity":"None","externalIPs":["198.51.100.7"],
        "ports":[{"protocol":"TCP","port":9000,"targetPort":80,"nodePort":31063}]}}'],
    '/apis/discovery.k8s.io/v1/endpointslices' => ['discovery.k8s.io/v1', 'EndpointSliceList',
        '{"metadata":{"name":"web-1","namespace":"default","uid":"3","resourceVersion":"1",
        "labels":{"kubernetes.io/service-name":"web"}},"addressType":"IPv4",
        "ports":[{"name":"","protocol":"TCP","port":80}],
        "endpoints":[{"addresses":["10.10.1.3"],"conditions":{"ready":true,"serving":true}},
        {"addresses":["10.10.2.4"],"conditions":{"ready":true,"serving":true}}]}'],
    '/apis/networking.k8s.io/v1/servicecidrs' => ['networking.k8s.io/v1', 'ServiceCIDRList',
        '{"metadata":{"name":"kubernetes","uid":"4","resourceVersion":"1"},"spec":{"cidrs":["10.200.0.0/16"]}}'],
);

# answer CODE BODY: a whole answer; the connection ends with it.
sub answer {
    my ($code, $body) = @_;
    return sprintf "HTTP/1.1 %d -\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
        $code, length $body, $body;
}

sub refusal {
    my ($code, $reason) = @_;
    return answer($code, qq({"kind":"Status","apiVersion":"v1","status":"Failure","reason":"$reason","code":$code}));
}

# respond PATH QUERY: what is answered; nothing if it is a watch, which stays open.
sub respond {
    my ($path, $query) = @_;
    my ($list, $name) = $path =~ m{^(.*/nodes)/([^/]+)$} ? ($1, $2) : ($path, undef);
    return refusal(404, 'NotFound') unless $lists{$list};
    my ($version, $kind, $item) = @{$lists{$list}};
    my $single = $kind =~ s/List$//r;
    $item =~ s/\{/{"apiVersion":"$version","kind":"$single",/;
    return answer(200, $item) if defined $name;
    # A list that is sent by a watch: a client falls back to a plain one.
    return refusal(422, 'Invalid') if $query =~ /sendInitialEvents=true/;
    return if $query =~ /\bwatch=(true|1)/;
    return answer(200, qq({"apiVersion":"$version","kind":"$kind","metadata":{"resourceVersion":"1"},"items":[$item]}));
}

$SIG{CHLD} = 'IGNORE';
socket(my $server, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
setsockopt($server, SOL_SOCKET, SO_REUSEADDR, 1);
bind($server, sockaddr_in($port, INADDR_LOOPBACK)) or die "bind: $!";
listen($server, 64) or die "listen: $!";
print "listening\n";
while (accept(my $client, $server)) {
    if (fork) {
        close $client;
        next;
    }
    my ($method, $target) = (<$client> // '') =~ m{^(\S+) (\S+)};
    my $length = 0;
    while (defined(my $line = <$client>)) {
        $length = $1 if $line =~ /^content-length: *(\d+)/i;
        last if $line =~ /^\r?\n$/;
    }
    read $client, my $body, $length if $length;
    my ($path, $query) = split /\?/, $target // '/', 2;
    my $reply = $method eq 'GET' ? respond($path, $query // '') : answer(201, '{}');
    $reply //= "HTTP/1.1 200 -\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    syswrite $client, $reply;
    # A watch stays open until the other side has enough of it.
    read $client, $body, 1 if $reply =~ /chunked/;
    exit;
}
