//! What is timed of two pods that talk, and how nodes are compared in it: in turns.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use podwire_kernel::nft::{Batch, Family, NftSocket};

use crate::talk::{
    self, CONNECTIONS, ECHO, Lab, SERVERS, TURN, TURNS, connect, directly, of_pair, wait_for_end,
};

/// The agent's table.
pub const TABLE: &str = "podwire-policy";

/// The set of what was judged before.
const ALLOWED: &str = "allowed";

/// In which order the sides have their turns: each comes as often before as after each other.
const ORDERS: [[usize; 3]; 6] = [
    [0, 1, 2],
    [2, 1, 0],
    [1, 0, 2],
    [2, 0, 1],
    [0, 2, 1],
    [1, 2, 0],
];

/// The first turns fill caches.
const WARM: usize = 10;

/// What one turn of a lab yields.
pub type Turn = fn(&Lab) -> Result<f64, String>;

/// The medians of three nodes, and those of the ratios of the same turn to the last of them, which the
/// machine's moods hardly reach.
pub fn compare(labs: [&Lab; 3], turn: Turn) -> Result<([f64; 3], [f64; 2]), String> {
    let (mut figures, mut ratios) = ([const { Vec::new() }; 3], [const { Vec::new() }; 2]);
    for number in 0..TURNS + WARM {
        let mut now = [0.0; 3];
        for side in ORDERS[number % ORDERS.len()] {
            now[side] = turn(labs[side])?;
        }
        if number < WARM {
            continue;
        }
        (0..3).for_each(|side| figures[side].push(now[side]));
        (0..2).for_each(|side| ratios[side].push(now[side] / now[2]));
    }
    Ok((figures.map(median), ratios.map(median)))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// New connections of pairs that have spoken.
pub fn first_packets(lab: &Lab) -> Result<f64, String> {
    connections(lab, directly, first_packet)
}

/// New connections of pairs that never spoke, until the first answer.
pub fn first_of_pairs(lab: &Lab) -> Result<f64, String> {
    pairs(lab, first_packet)
}

/// New connections of pairs that never spoke, until both ends have closed them.
pub fn connections_of_pairs(lab: &Lab) -> Result<f64, String> {
    pairs(lab, whole_connection)
}

/// How long the first packet of a new connection and its answer take.
fn first_packet(target: SocketAddr) -> std::io::Result<Duration> {
    let (stream, time) = connect(target)?;
    wait_for_end(stream)?;
    Ok(time)
}

/// How long a connection takes from its first packet until both ends have closed it.
fn whole_connection(target: SocketAddr) -> std::io::Result<Duration> {
    let start = Instant::now();
    let (stream, _) = connect(target)?;
    wait_for_end(stream)?;
    Ok(start.elapsed())
}

/// What is timed of a connection.
type Timed = fn(SocketAddr) -> std::io::Result<Duration>;

/// Of pairs that never spoke: the node forgets all of them, and each speaks once in the turn.
fn pairs(lab: &Lab, timed: Timed) -> Result<f64, String> {
    let failed = |error: podwire_kernel::Error| error.to_string();
    let kernel = lab.node.enter(NftSocket::open).map_err(failed)?;
    let mut kernel = kernel.map_err(failed)?;
    if kernel.has_table(Family::Ip, TABLE).map_err(failed)? {
        let mut batch = Batch::new();
        batch.table(Family::Ip, TABLE).flush_set(ALLOWED);
        let done = kernel.commit(&mut batch);
        done.map_err(|error| error.to_string())?;
    }
    // The kernel lets go of what was in the set afterwards, on any processor.
    std::thread::sleep(Duration::from_millis(5));
    connections(lab, of_pair, timed)
}

/// The median of new connections of one turn, the first to `target` of 0 and so on.
fn connections(lab: &Lab, target: fn(u32) -> SocketAddr, timed: Timed) -> Result<f64, String> {
    lab.in_client(|| {
        let numbers = 0..CONNECTIONS as u32;
        let times: std::io::Result<Vec<_>> = numbers.map(|number| timed(target(number))).collect();
        let mut times = times?;
        times.sort_unstable();
        let median: Duration = times[times.len() / 2];
        Ok(median.as_secs_f64() * 1e6)
    })
}

/// A byte there and back, as often as it goes in a turn.
pub fn round_trips(lab: &Lab) -> Result<f64, String> {
    lab.in_client(|| {
        let (mut stream, _) = connect(SocketAddr::from((SERVERS[0], ECHO)))?;
        stream.set_nodelay(true)?;
        let start = Instant::now();
        let mut done = 0u32;
        while start.elapsed() < TURN {
            stream.write_all(b"?")?;
            stream.read_exact(&mut [0])?;
            done += 1;
        }
        let rate = f64::from(done) / start.elapsed().as_secs_f64();
        wait_for_end(stream)?;
        Ok(rate)
    })
}

/// As much as goes through one connection in a turn.
pub fn throughput(lab: &Lab) -> Result<f64, String> {
    lab.in_client(|| talk::throughput(directly(0)))
}
