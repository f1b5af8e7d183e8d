//! Packets as bytes. The last four of each are its number.

use std::net::IpAddr;

use crate::features::policies::desired::truth::Traffic;
use crate::snapshot::Protocol;

const ICMP: u8 = 1;
const ICMP_V6: u8 = 58;
/// The flags of TCP that are used here.
const SYN: u8 = 2;
const ACK: u8 = 16;
/// Hops that are left: more than there are nodes.
const HOPS: u8 = 64;
/// Where source ports begin: above all that are asked about, so that no packet is the reply to another.
const FIRST_SOURCE_PORT: u32 = 20_000;
const SOURCE_PORTS: u32 = 40_000;

/// The first packet of a connection, from its IP header on.
pub fn packet(from: IpAddr, to: IpAddr, traffic: Traffic, number: u32) -> Vec<u8> {
    let source = source_port(number);
    let (protocol, sum_at, payload) = match traffic {
        Traffic::Port(Protocol::Tcp, port) => (6, 16, tcp(source, port, SYN)),
        Traffic::Port(Protocol::Udp, port) => (17, 6, udp(source, port)),
        Traffic::Port(Protocol::Sctp, port) => (132, 8, sctp_init(source, port)),
        Traffic::Portless if from.is_ipv4() => (ICMP, 2, echo(8, source)),
        Traffic::Portless => (ICMP_V6, 2, echo(128, source)),
    };
    numbered(from, to, protocol, sum_at, payload, number)
}

/// What answers a packet of UDP.
pub fn answer(from: IpAddr, to: IpAddr, port: u16, number: u32) -> Vec<u8> {
    numbered(from, to, 17, 6, udp(port, source_port(number)), number)
}

/// From where the packet of this number comes.
fn source_port(number: u32) -> u16 {
    u16::try_from(FIRST_SOURCE_PORT + number % SOURCE_PORTS).unwrap()
}

/// A packet of TCP from the middle of a connection.
pub fn segment(from: IpAddr, to: IpAddr, [source, port]: [u16; 2], number: u32) -> Vec<u8> {
    numbered(from, to, 6, 16, tcp(source, port, ACK), number)
}

/// A heartbeat of SCTP from the middle of an association.
pub fn heartbeat(from: IpAddr, to: IpAddr, [source, port]: [u16; 2], number: u32) -> Vec<u8> {
    numbered(from, to, 132, 8, sctp_heartbeat(source, port), number)
}

/// An error about a packet: its port is unreachable (RFC 792; RFC 4443, section 3.1).
pub fn unreachable(from: IpAddr, to: IpAddr, about: &[u8], number: u32) -> Vec<u8> {
    let (protocol, kind, code) = match from {
        IpAddr::V4(_) => (ICMP, 3, 3),
        IpAddr::V6(_) => (ICMP_V6, 1, 4),
    };
    let payload = [&[kind, code, 0, 0, 0, 0, 0, 0], about].concat();
    numbered(from, to, protocol, 2, payload, number)
}

/// Ends a packet with its number. Its checksum goes to this place of the payload.
fn numbered(
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    sum_at: usize,
    mut payload: Vec<u8>,
    number: u32,
) -> Vec<u8> {
    payload.extend(number.to_be_bytes());
    let sum = match protocol {
        132 => crc32c(&payload).to_le_bytes().to_vec(),
        ICMP => sum(&[&payload]).to_vec(),
        _ => sum(&[&pseudo_header(from, to, protocol, payload.len()), &payload]).to_vec(),
    };
    // RFC 768: no sum at all is what 0 means.
    let sum = if protocol == 17 && sum == [0, 0] {
        vec![0xff, 0xff]
    } else {
        sum
    };
    payload[sum_at..sum_at + sum.len()].copy_from_slice(&sum);
    [ip_header(from, to, protocol, payload.len()), payload].concat()
}

/// Where a packet that arrived came from, where it goes to, and its number.
pub fn read(packet: &[u8]) -> Option<(IpAddr, IpAddr, u32)> {
    let (_, number) = packet.split_last_chunk()?;
    let [from, to] = match packet[0] >> 4 {
        4 => [12, 16].map(|at| {
            let bytes: Option<[u8; 4]> = packet.get(at..at + 4)?.try_into().ok();
            bytes.map(IpAddr::from)
        }),
        _ => [8, 24].map(|at| {
            let bytes: Option<[u8; 16]> = packet.get(at..at + 16)?.try_into().ok();
            bytes.map(IpAddr::from)
        }),
    };
    Some((from?, to?, u32::from_be_bytes(*number)))
}

/// RFC 9293, section 3.1.
fn tcp(source: u16, port: u16, flags: u8) -> Vec<u8> {
    let mut bytes = ports(source, port);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, flags, 0x20, 0, 0, 0, 0, 0]);
    bytes
}

/// RFC 768, with four bytes of data.
fn udp(source: u16, port: u16) -> Vec<u8> {
    let mut bytes = ports(source, port);
    bytes.extend([0, 12, 0, 0]);
    bytes
}

/// RFC 9260, section 3.3.2: an INIT whose last field, the initial TSN, is to follow.
fn sctp_init(source: u16, port: u16) -> Vec<u8> {
    let mut bytes = ports(source, port);
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1]);
    bytes
}

/// RFC 9260, section 3.3.5: a HEARTBEAT whose information, four bytes, is to follow.
fn sctp_heartbeat(source: u16, port: u16) -> Vec<u8> {
    let mut bytes = ports(source, port);
    bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 4, 0, 0, 12, 0, 1, 0, 8]);
    bytes
}

/// RFC 792 and RFC 4443, section 4.1: an echo request.
fn echo(kind: u8, identifier: u16) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    vec![kind, 0, 0, 0, high, low, 0, 1]
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// RFC 791 and RFC 8200.
fn ip_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap();
    let addresses = [octets(from), octets(to)].concat();
    if from.is_ipv6() {
        let [high, low] = length.to_be_bytes();
        return [vec![0x60, 0, 0, 0, high, low, protocol, HOPS], addresses].concat();
    }
    let [high, low] = (length + 20).to_be_bytes();
    let start = vec![0x45, 0, high, low, 0, 0, 0, 0, HOPS, protocol, 0, 0];
    let mut header = [start, addresses].concat();
    let sum = sum(&[&header]);
    header[10..12].copy_from_slice(&sum);
    header
}

/// What the checksum covers beside the payload; that of IPv4 has shorter fields, but the same sum.
fn pseudo_header(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap().to_be_bytes();
    [
        octets(from),
        octets(to),
        length.to_vec(),
        vec![0, 0, 0, protocol],
    ]
    .concat()
}

/// The Internet checksum (RFC 1071); all parts have an even length.
fn sum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

/// CRC32c, which SCTP has in the order of little-endian machines (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let odd = crc & 1 == 1;
            crc = (crc >> 1) ^ if odd { 0x82f6_3b78 } else { 0 };
        }
    }
    !crc
}
