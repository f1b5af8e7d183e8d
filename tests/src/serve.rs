//! The process of a pod that answers: small servers that name the pod and its client.
//!
//! `GET /` answers `web-1 answers 10.10.0.6`; `GET /client` the client's address and port;
//! `GET /bytes/N` that many bytes. TCP servers answer each line, UDP servers each datagram, with
//! the same words and what was sent. One thread for each connection is enough for a lab.
//!
//! What the connectivity test asks is answered as the server of Kubernetes' own tests does
//! (agnhost's netexec): `/hostname`, `/clientip` and `/echo` with `msg` over HTTP, and `hostname`
//! and `echo ...` in datagrams.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};

/// The longest request that is read; the rest is not waited for.
const LONGEST_REQUEST: u64 = 64 * 1024;

/// The most bytes that `/bytes/N` sends.
const MOST_BYTES: u64 = 1 << 30;

/// How long a client may keep an HTTP connection without sending its request.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says that all ports are open, for the program that started us in the background.
pub const SERVING: &str = "serving";

/// What to serve.
#[derive(Debug, Clone, clap::Args)]
pub struct Ports {
    /// A port for HTTP.
    #[arg(long)]
    http: Vec<u16>,
    /// A port for TCP, one answer for each line.
    #[arg(long)]
    tcp: Vec<u16>,
    /// A port for UDP, one answer for each datagram.
    #[arg(long)]
    udp: Vec<u16>,
}

/// Serves until the process is killed.
pub fn run(ports: &Ports) -> Result<()> {
    let name: Arc<str> = host_name().into();
    let mut threads = Vec::new();
    for &port in &ports.http {
        threads.push(listen(port, &name, answer_http)?);
    }
    for &port in &ports.tcp {
        threads.push(listen(port, &name, answer_lines)?);
    }
    for &port in &ports.udp {
        let socket = UdpSocket::bind(any(port)).map_err(busy("UDP", port))?;
        let name = name.clone();
        threads.push(thread::spawn(move || answer_datagrams(&socket, &name)));
    }
    eprintln!("{SERVING}");
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

/// The pod's name.
pub fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

/// Both families: an IPv6 socket takes IPv4 as well unless told not to.
fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn busy(protocol: &'static str, port: u16) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Start {
        program: format!("a server on {protocol} port {port}"),
        place: host_name(),
        source,
    }
}

fn listen(
    port: u16,
    name: &Arc<str>,
    answer: fn(TcpStream, &str) -> io::Result<()>,
) -> Result<thread::JoinHandle<()>> {
    let listener = TcpListener::bind(any(port)).map_err(busy("TCP", port))?;
    let name = name.clone();
    Ok(thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = name.clone();
            // A client that goes away in the middle is its own affair.
            thread::spawn(move || answer(stream, &name).ok());
        }
    }))
}

fn client(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

fn answer_http(mut stream: TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?;
    let mut request = BufReader::new((&stream).take(LONGEST_REQUEST));
    let mut first = String::new();
    request.read_line(&mut first)?;
    let mut line = String::new();
    let mut length = 0;
    while request.read_line(&mut line)? > 0 && !line.trim_end().is_empty() {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
        line.clear();
    }
    let path = first.split_whitespace().nth(1).unwrap_or("/");
    let bytes = path
        .strip_prefix("/bytes/")
        .and_then(|number| number.parse::<u64>().ok());
    if let Some(length) = bytes.filter(|length| *length <= MOST_BYTES) {
        head(&mut stream, length)?;
        io::copy(&mut io::repeat(b'.').take(length), &mut stream)?;
        return Ok(());
    }
    let body = match path {
        "/client" => format!("{}\n", SocketAddr::new(client(peer), peer.port())),
        "/hostname" => name.to_owned(),
        "/clientip" => SocketAddr::new(client(peer), peer.port()).to_string(),
        "/echo" => {
            let mut form = String::new();
            request.take(length).read_to_string(&mut form)?;
            form.strip_prefix("msg=").unwrap_or_default().to_owned()
        }
        _ => format!("{name} answers {}\n", client(peer)),
    };
    head(&mut stream, body.len() as u64)?;
    stream.write_all(body.as_bytes())
}

fn head(stream: &mut TcpStream, length: u64) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    )
}

fn answer_lines(mut stream: TcpStream, name: &str) -> io::Result<()> {
    let peer = client(stream.peer_addr()?);
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while (&mut reader).take(LONGEST_REQUEST).read_line(&mut line)? > 0 {
        writeln!(stream, "{name} answers {peer} {}", line.trim_end())?;
        line.clear();
    }
    Ok(())
}

fn answer_datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        // An error here is an ICMP message about an earlier answer.
        let Ok((length, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let said = String::from_utf8_lossy(&buffer[..length]);
        let answer = match said.trim_end() {
            "hostname" => name.to_owned(),
            said => match said.strip_prefix("echo ") {
                Some(said) => said.to_owned(),
                None => format!("{name} answers {} {said}\n", client(peer)),
            },
        };
        let _ = socket.send_to(answer.as_bytes(), peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Serves one connection on loopback and answers with what a client of it reads.
    fn talk(answer: fn(TcpStream, &str) -> io::Result<()>, said: &str) -> String {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || answer(listener.accept().unwrap().0, "web-1"));
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(said.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        server.join().unwrap().unwrap();
        answer
    }

    #[test]
    fn http_answers_name_the_pod_and_its_client() {
        let answer = talk(answer_http, "GET / HTTP/1.1\r\nHost: x\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(
            answer.ends_with("\r\n\r\nweb-1 answers 127.0.0.1\n"),
            "{answer}"
        );
    }

    #[test]
    fn as_many_bytes_come_as_were_asked_for() {
        let answer = talk(answer_http, "GET /bytes/70000 HTTP/1.1\r\n\r\n");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        assert_eq!(body.len(), 70_000);
    }

    #[test]
    fn the_connectivity_test_gets_the_answers_of_kubernetes_own_server() {
        let body = |said| {
            let answer = talk(answer_http, said);
            answer.split_once("\r\n\r\n").unwrap().1.to_owned()
        };
        assert_eq!(body("GET /hostname HTTP/1.1\r\n\r\n"), "web-1");
        let client: SocketAddr = body("GET /clientip HTTP/1.1\r\n\r\n").parse().unwrap();
        assert_eq!(client.ip(), IpAddr::from(Ipv4Addr::LOCALHOST));
        let said = "POST /echo HTTP/1.1\r\nContent-Length: 8\r\n\r\nmsg=xxxx";
        assert_eq!(body(said), "xxxx");
    }

    #[test]
    fn every_line_gets_an_answer() {
        let answer = talk(answer_lines, "one\ntwo\n");
        assert_eq!(
            answer,
            "web-1 answers 127.0.0.1 one\nweb-1 answers 127.0.0.1 two\n"
        );
    }
}
