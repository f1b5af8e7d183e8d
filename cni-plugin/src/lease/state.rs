//! The state of a lease directory: whether the index is up to date, and the queues of free
//! addresses.
//!
//! It is the file `.podwire`, a few lines of text:
//!
//! ```text
//! podwire 1
//! directory 1234 1763860000.123456789 80 0
//! released 1f00c4e5a2b3d697
//! pool 10.1.2.7-10.1.2.254 0 3 10.1.2.1-10.1.2.254@10.1.2.1
//! end 0123456789abcdef
//! ```
//!
//! The second line is the [`Stamp`] of the directory when the state was written. Every change of
//! names in the directory, by whomever, changes the stamp; so a state with the stamp of the
//! directory describes it, and any other is worthless. The last line is a hash of the lines above.
//! What stands behind it is left over from a longer state.
//!
//! On kernels before 6.13 time stamps have a grain of some milliseconds, so a change by another
//! process right after our own can go unseen on file systems other than tmpfs. Then a lease of
//! host-local lacks its index entry, and its DEL reads all files to find it.

use std::fmt::Write as _;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;

use super::directory::{Directory, Stamp};
use super::pool::{Pool, Run};
use crate::hash::fnv1a;
use crate::range::{address, number};

const NAME: &str = ".podwire";

/// Longer states are not read; a range set takes about 80 bytes.
const LONGEST: usize = 64 * 1024;

/// The state of a lease directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// The stamp of the directory that is described.
    pub stamp: Stamp,
    /// Hashes of owners whose leases were released not long ago.
    pub released: Vec<u64>,
    /// The queue of each range set.
    pub pools: Vec<Pool>,
}

/// The state file, and what it said when it was read.
#[derive(Debug)]
pub struct StateFile {
    file: File,
}

impl StateFile {
    /// Opens the state file, and makes it if there is none; `None` if that does not work, on a
    /// read-only file system for one. Then there is no state.
    pub fn open(directory: &Directory) -> Option<Self> {
        let file = directory.open_file(NAME).ok()?;
        Some(Self { file })
    }

    /// The state in the file, if it is whole.
    pub fn read(&self) -> Option<State> {
        let mut bytes = vec![0; 4096];
        let mut length = self.file.read_at(&mut bytes, 0).ok()?;
        if length == bytes.len() {
            bytes.resize(LONGEST, 0);
            length += self
                .file
                .read_at(&mut bytes[length..], length as u64)
                .ok()?;
        }
        State::parse(std::str::from_utf8(&bytes[..length]).ok()?)
    }

    /// Writes the state. If that fails the old one is worthless, or the half-written one is, and
    /// the next call makes the index again.
    pub fn write(&self, state: &State) {
        let _ = self.file.write_all_at(state.spell().as_bytes(), 0);
    }
}

impl State {
    fn spell(&self) -> String {
        let stamp = &self.stamp;
        let mut text = format!(
            "podwire 1\ndirectory {} {}.{} {} {:x}\n",
            stamp.inode, stamp.seconds, stamp.nanoseconds, stamp.size, stamp.boot
        );
        if !self.released.is_empty() {
            text.push_str("released");
            for hash in &self.released {
                // Writing into a string cannot fail.
                let _ = write!(text, " {hash:x}");
            }
            text.push('\n');
        }
        for pool in &self.pools {
            let v4 = !pool.ranges.contains(':');
            let front = pool.front.map_or_else(
                || "-".to_owned(),
                |(first, last)| format!("{}-{}", address(first, v4), address(last, v4)),
            );
            // Writing into a string cannot fail.
            let _ = writeln!(
                text,
                "pool {front} {} {} {}",
                pool.head, pool.tail, pool.ranges
            );
        }
        let _ = writeln!(text, "end {:016x}", fnv1a(text.bytes()));
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let end = text.find("\nend ")? + 1;
        let hash = text.get(end + 4..end + 20)?;
        if hash != format!("{:016x}", fnv1a(text[..end].bytes())) {
            return None;
        }
        let mut lines = text[..end].lines();
        if lines.next()? != "podwire 1" {
            return None;
        }
        let stamp = parse_stamp(lines.next()?)?;
        let mut lines = lines.peekable();
        let released = lines.next_if(|line| line.starts_with("released "));
        let released = released.map_or_else(|| Some(Vec::new()), parse_released)?;
        let pools = lines.map(parse_pool).collect::<Option<_>>()?;
        Some(Self {
            stamp,
            released,
            pools,
        })
    }
}

fn parse_stamp(line: &str) -> Option<Stamp> {
    let mut words = line.strip_prefix("directory ")?.split(' ');
    let inode = words.next()?.parse().ok()?;
    let (seconds, nanoseconds) = words.next()?.split_once('.')?;
    Some(Stamp {
        inode,
        seconds: seconds.parse().ok()?,
        nanoseconds: nanoseconds.parse().ok()?,
        size: words.next()?.parse().ok()?,
        boot: u64::from_str_radix(words.next()?, 16).ok()?,
    })
}

fn parse_released(line: &str) -> Option<Vec<u64>> {
    let hashes = line.split(' ').skip(1);
    hashes
        .map(|hash| u64::from_str_radix(hash, 16).ok())
        .collect()
}

fn parse_pool(line: &str) -> Option<Pool> {
    let mut words = line.strip_prefix("pool ")?.splitn(4, ' ');
    let front = match words.next()? {
        "-" => None,
        run => Some(parse_run(run)?),
    };
    Some(Pool {
        front,
        head: words.next()?.parse().ok()?,
        tail: words.next()?.parse().ok()?,
        ranges: words.next()?.to_owned(),
    })
}

fn parse_run(text: &str) -> Option<Run> {
    let (first, last) = text.split_once('-')?;
    let parse = |text: &str| text.parse::<IpAddr>().ok().map(number);
    Some((parse(first)?, parse(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let pool = |ranges: &str, front| Pool {
            ranges: ranges.to_owned(),
            front,
            head: 3,
            tail: 18_446_744_073_709_551_615,
        };
        State {
            stamp: Stamp {
                inode: 7,
                seconds: -3,
                nanoseconds: 4,
                size: 80,
                boot: u64::MAX,
            },
            released: vec![1, u64::MAX],
            pools: vec![
                pool(
                    "10.0.0.1-10.0.0.9@10.0.0.1",
                    Some((0x0a00_0002, 0x0a00_0009)),
                ),
                pool("fd00::1-fd00::9@fd00::1", None),
                pool("::1-::9@::1", Some((2, 9))),
            ],
        }
    }

    #[test]
    fn a_state_reads_back_what_it_spells() {
        assert_eq!(State::parse(&state().spell()), Some(state()));
    }

    #[test]
    fn what_is_left_over_behind_the_end_is_ignored() {
        let mut short = state();
        short.pools.truncate(1);
        let (short_text, long_text) = (short.spell(), state().spell());
        let text = format!("{short_text}{}", &long_text[short_text.len()..]);
        assert_eq!(State::parse(&text), Some(short));
    }

    #[test]
    fn a_state_with_one_wrong_byte_is_worthless() {
        let text = state().spell();
        for position in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[position] = if bytes[position] == b'5' { b'6' } else { b'5' };
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(State::parse(&text), None, "byte {position}");
        }
    }

    #[test]
    fn a_cut_off_state_is_worthless() {
        let text = state().spell();
        for length in 0..text.len() - 1 {
            assert_eq!(State::parse(&text[..length]), None, "{length} bytes");
        }
    }
}
