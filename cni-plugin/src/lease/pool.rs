//! The free addresses of one range set, the one that has been free for longest first.
//!
//! In: a range set, the leased addresses, and the address leased last. Out: the next address to
//! lease, at the same cost however many are leased. Addresses that were never leased come in the
//! order of the ranges, from the one after the address leased last, as with host-local; then those
//! that were released, in the order of their release.
//!
//! The queue is a list of runs of consecutive addresses. Its first run is kept in the state of the
//! directory, the others in the file `.podwire.free.<range set>`, each in 32 bytes: the numbers of
//! its first and its last address, big endian. New runs are appended; the state says which part of
//! the file counts. An address in the queue may be leased all the same (it was asked for by name),
//! so the code that takes one must be ready to find that out; every free address is in the queue
//! unless there were too many to keep, and then it is found when the queue has run dry.

use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;

use super::directory::Directory;
use crate::range::{RangeSet, address, number};

/// Bytes of one run in the file.
const RUN: u64 = 32;

/// The most runs that are kept.
const MOST_RUNS: u64 = 65_536;

/// A file with this many used-up runs or more is moved together when its queue is short enough.
const WASTE: u64 = 2_048;

/// Consecutive addresses by their numbers, both ends included.
pub type Run = (u128, u128);

/// What the state of the directory says about one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The range set, as [`spell`] writes it. Another one makes the queue worthless.
    pub ranges: String,
    /// The first run of the queue.
    pub front: Option<Run>,
    /// The first run in the file that counts, counted from 0.
    pub head: u64,
    /// The run behind the last one in the file that counts.
    pub tail: u64,
}

/// The queue of one range set, with its file.
#[derive(Debug)]
pub struct Queue<'a> {
    pool: &'a mut Pool,
    directory: &'a Directory,
    index: usize,
}

/// A queue whose file does not hold what the state says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl<'a> Queue<'a> {
    /// The queue of range set number `index`.
    pub fn new(pool: &'a mut Pool, directory: &'a Directory, index: usize) -> Self {
        Self {
            pool,
            directory,
            index,
        }
    }

    /// The address that is next.
    pub fn peek(&mut self) -> Result<Option<IpAddr>, Broken> {
        if self.pool.front.is_none() && self.pool.head < self.pool.tail {
            let run = self.read(self.pool.head)?;
            self.pool.front = Some(run);
            self.pool.head += 1;
        }
        let v4 = self.pool.is_ipv4();
        Ok(self.pool.front.map(|(first, _)| address(first, v4)))
    }

    /// Takes the address that is next out of the queue.
    pub fn advance(&mut self) {
        if let Some((first, last)) = self.pool.front {
            self.pool.front = (first < last).then(|| (first + 1, last));
        }
    }

    /// Puts a released address at the end of the queue.
    pub fn push(&mut self, released: IpAddr) -> Result<(), Broken> {
        let run = (number(released), number(released));
        if self.pool.head == self.pool.tail {
            (self.pool.head, self.pool.tail) = (0, 0);
            if self.pool.front.is_none() {
                self.pool.front = Some(run);
                return Ok(());
            }
        }
        let count = self.pool.tail - self.pool.head;
        if count >= MOST_RUNS {
            return Ok(());
        }
        if self.pool.head >= WASTE.max(count) {
            self.move_together(count)?;
        }
        let file = self.file()?;
        write(&file, self.pool.tail, &[run])?;
        self.pool.tail += 1;
        Ok(())
    }

    /// Replaces the whole queue.
    pub fn fill(&mut self, runs: &[Run]) -> Result<(), Broken> {
        (self.pool.head, self.pool.tail) = (0, 0);
        let Some((first, others)) = runs.split_first() else {
            self.pool.front = None;
            return Ok(());
        };
        self.pool.front = Some(*first);
        if !others.is_empty() {
            write(&self.file()?, 0, others)?;
            self.pool.tail = others.len() as u64;
        }
        Ok(())
    }

    /// Copies the runs that count to the start of the file, which is before them: until the state
    /// is written, the old ones count.
    fn move_together(&mut self, count: u64) -> Result<(), Broken> {
        let runs: Result<Vec<_>, _> = (0..count)
            .map(|offset| self.read(self.pool.head + offset))
            .collect();
        write(&self.file()?, 0, &runs?)?;
        (self.pool.head, self.pool.tail) = (0, count);
        Ok(())
    }

    fn read(&self, at: u64) -> Result<Run, Broken> {
        let mut bytes = [0; RUN as usize];
        let read = self.file()?.read_exact_at(&mut bytes, at * RUN);
        read.map_err(|_| Broken)?;
        let half = |half: Option<&[u8; 16]>| half.copied().map(u128::from_be_bytes);
        match (half(bytes.first_chunk()), half(bytes.last_chunk())) {
            (Some(first), Some(last)) if self.pool.covers(first, last) => Ok((first, last)),
            _ => Err(Broken),
        }
    }

    fn file(&self) -> Result<File, Broken> {
        let name = format!(".podwire.free.{}", self.index);
        self.directory.open_file(&name).map_err(|_| Broken)
    }
}

/// Writes runs into the file, from number `at` on.
fn write(file: &File, at: u64, runs: &[Run]) -> Result<(), Broken> {
    let halves = runs.iter().flat_map(|(first, last)| [first, last]);
    let bytes: Vec<u8> = halves.flat_map(|number| number.to_be_bytes()).collect();
    file.write_all_at(&bytes, at * RUN).map_err(|_| Broken)
}

impl Pool {
    /// The queue of `set`, still empty.
    pub fn new(set: &RangeSet) -> Self {
        Self {
            ranges: spell(set),
            front: None,
            head: 0,
            tail: 0,
        }
    }

    /// Whether `address` is in one of the ranges.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_ipv4() && self.covers(number(address), number(address))
    }

    fn is_ipv4(&self) -> bool {
        !self.ranges.contains(':')
    }

    /// Whether one range has all addresses from `first` to `last`.
    fn covers(&self, first: u128, last: u128) -> bool {
        let mut ranges = self.ranges.split(',').filter_map(|range| {
            let (start, rest) = range.split_once('-')?;
            let (end, _) = rest.split_once('@')?;
            let number = |text: &str| text.parse().ok().map(number);
            Some((number(start)?, number(end)?))
        });
        ranges.any(|(start, end)| start <= first && first <= last && last <= end)
    }
}

/// The ranges of a set with their gateways: `10.1.2.1-10.1.2.254@10.1.2.1,...`.
pub fn spell(set: &RangeSet) -> String {
    let ranges = set.ranges().iter();
    let ranges: Vec<_> = ranges
        .map(|range| format!("{range}@{}", range.gateway))
        .collect();
    ranges.join(",")
}

/// The free addresses of `set` in the order in which they are to be leased: from the one after
/// `last` on, and around. `leased` is sorted and may have addresses of other sets.
pub fn free(set: &RangeSet, leased: &[IpAddr], last: Option<IpAddr>) -> Vec<Run> {
    let v4 = set.is_ipv4();
    let same_family = leased.iter().filter(|address| address.is_ipv4() == v4);
    let leased: Vec<u128> = same_family.map(|address| number(*address)).collect();
    let mut runs = Vec::new();
    for (start, end, gateway) in around(set, last) {
        let from = leased.partition_point(|taken| *taken < start);
        let to = leased.partition_point(|taken| *taken <= end);
        let mut taken = leased[from..to].to_vec();
        if start <= gateway && gateway <= end {
            taken.insert(taken.partition_point(|one| *one < gateway), gateway);
        }
        let mut next = Some(start);
        for taken in taken {
            match next {
                Some(first) if first < taken => runs.push((first, taken - 1)),
                _ => {}
            }
            next = taken.checked_add(1);
        }
        runs.extend(next.filter(|first| *first <= end).map(|first| (first, end)));
    }
    runs
}

/// The ranges of a set from the address after `last` on, and around, with their gateways.
fn around(set: &RangeSet, last: Option<IpAddr>) -> Vec<(u128, u128, u128)> {
    let ranges = set.ranges().iter();
    let all = ranges.map(|range| {
        (
            number(range.start),
            number(range.end),
            number(range.gateway),
        )
    });
    let all: Vec<_> = all.collect();
    let position = |last: IpAddr| set.ranges().iter().position(|range| range.contains(last));
    let Some((index, last)) = last.and_then(|last| Some((position(last)?, number(last)))) else {
        return all;
    };
    let (start, end, gateway) = all[index];
    let mut parts = Vec::new();
    if last < end {
        parts.push((last + 1, end, gateway));
    }
    parts.extend_from_slice(&all[index + 1..]);
    parts.extend_from_slice(&all[..index]);
    parts.push((start, last, gateway));
    parts
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::json::Node;

    fn set(ranges: serde_json::Value) -> RangeSet {
        RangeSet::read(&Node::of_document(&ranges)).unwrap()
    }

    fn check(ranges: &serde_json::Value, leased: &[&str], last: Option<&str>, expected: &[&str]) {
        let set = set(ranges.clone());
        let mut leased: Vec<IpAddr> = leased.iter().map(|text| text.parse().unwrap()).collect();
        leased.sort();
        let last = last.map(|last| last.parse().unwrap());
        let v4 = set.is_ipv4();
        let runs = free(&set, &leased, last).into_iter();
        let runs: Vec<_> = runs
            .map(|(first, last)| format!("{}-{}", address(first, v4), address(last, v4)))
            .collect();
        assert_eq!(runs, expected);
    }

    #[test]
    fn addresses_come_from_the_start_if_none_was_leased() {
        let ranges = json!([{"subnet": "10.0.0.0/29"}]);
        check(&ranges, &[], None, &["10.0.0.2-10.0.0.6"]);
        check(&ranges, &[], Some("10.9.9.9"), &["10.0.0.2-10.0.0.6"]);
        check(&ranges, &["10.0.0.2"], None, &["10.0.0.3-10.0.0.6"]);
    }

    #[test]
    fn addresses_come_from_behind_the_last_one_and_then_around() {
        let ranges = json!([{"subnet": "10.0.0.0/29"}]);
        check(
            &ranges,
            &["10.0.0.4"],
            Some("10.0.0.4"),
            &["10.0.0.5-10.0.0.6", "10.0.0.2-10.0.0.3"],
        );
        check(&ranges, &[], Some("10.0.0.6"), &["10.0.0.2-10.0.0.6"]);
    }

    #[test]
    fn the_gateway_is_left_out_wherever_it_is() {
        let ranges = json!([{"subnet": "10.0.0.0/29", "gateway": "10.0.0.4"}]);
        check(
            &ranges,
            &[],
            None,
            &["10.0.0.1-10.0.0.3", "10.0.0.5-10.0.0.6"],
        );
        let ranges = json!([{"subnet": "10.0.0.0/29", "gateway": "10.0.0.6"}]);
        check(
            &ranges,
            &["10.0.0.3"],
            None,
            &["10.0.0.1-10.0.0.2", "10.0.0.4-10.0.0.5"],
        );
    }

    #[test]
    fn the_ranges_of_a_set_come_one_after_the_other() {
        let ranges = json!([
            {"subnet": "10.0.0.0/29", "rangeStart": "10.0.0.2", "rangeEnd": "10.0.0.3"},
            {"subnet": "10.0.1.0/29", "rangeStart": "10.0.1.2", "rangeEnd": "10.0.1.3"},
            {"subnet": "10.0.2.0/29", "rangeStart": "10.0.2.2", "rangeEnd": "10.0.2.3"}
        ]);
        check(
            &ranges,
            &[],
            Some("10.0.1.2"),
            &[
                "10.0.1.3-10.0.1.3",
                "10.0.2.2-10.0.2.3",
                "10.0.0.2-10.0.0.3",
                "10.0.1.2-10.0.1.2",
            ],
        );
    }

    #[test]
    fn a_full_range_has_nothing_free() {
        check(
            &json!([{"subnet": "10.0.0.0/30"}]),
            &["10.0.0.2"],
            Some("10.0.0.2"),
            &[],
        );
    }

    #[test]
    fn the_largest_range_of_all_does_not_overflow() {
        check(
            &json!([{"subnet": "8000::/1"}]),
            &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"],
            Some("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            &["8000::2-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"],
        );
    }

    /// What a sequence of takes and releases does to a queue and to a plain list.
    fn compare(steps: &[Option<usize>], waste_first: u64) {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::create(folder.path()).unwrap();
        let set = set(json!([{"subnet": "10.0.0.0/26"}]));
        let mut pool = Pool::new(&set);
        let mut queue = Queue::new(&mut pool, &directory, 0);
        queue.fill(&free(&set, &[], None)).unwrap();
        let mut model: VecDeque<u32> = (2..=62).collect();
        let mut taken: Vec<u32> = Vec::new();
        let base = u32::from_be_bytes([10, 0, 0, 0]);
        let ip = |low: u32| IpAddr::from((base + low).to_be_bytes());
        for _ in 0..waste_first {
            let next = queue.peek().unwrap().unwrap();
            queue.advance();
            queue.push(next).unwrap();
            let next = model.pop_front().unwrap();
            model.push_back(next);
        }
        for step in steps {
            match step {
                Some(index) if !taken.is_empty() => {
                    let low = taken.remove(index % taken.len());
                    queue.push(ip(low)).unwrap();
                    model.push_back(low);
                }
                _ => {
                    let next = queue.peek().unwrap();
                    queue.advance();
                    let expected = model.pop_front();
                    assert_eq!(next, expected.map(ip));
                    taken.extend(expected);
                }
            }
        }
    }

    #[test]
    fn a_file_of_used_up_runs_is_moved_together() {
        compare(&[None, Some(0), None, None, Some(1)], 3 * WASTE);
    }

    #[test]
    fn a_file_that_lacks_what_the_state_says_is_broken() {
        let folder = tempfile::tempdir().unwrap();
        let directory = Directory::create(folder.path()).unwrap();
        let mut pool = Pool::new(&set(json!([{"subnet": "10.0.0.0/26"}])));
        pool.tail = 3;
        assert_eq!(Queue::new(&mut pool, &directory, 0).peek(), Err(Broken));
        let zeros = [0; 96];
        directory.write(".podwire.free.0", &zeros).unwrap();
        assert_eq!(Queue::new(&mut pool, &directory, 0).peek(), Err(Broken));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_queue_is_first_in_first_out(
            steps in proptest::collection::vec(proptest::option::of(any::<usize>()), 0..200),
        ) {
            compare(&steps, 0);
        }

        #[test]
        fn free_and_leased_together_are_the_range(
            leased in proptest::collection::btree_set(1..=62u8, 0..62),
            last in proptest::option::of(1..=62u8),
            gateway in 1..=62u8,
        ) {
            let set = set(json!([{"subnet": "10.0.0.0/26", "gateway": format!("10.0.0.{gateway}")}]));
            let leased: Vec<IpAddr> = leased.iter().map(|low| [10, 0, 0, *low].into()).collect();
            let last = last.map(|low| [10, 0, 0, low].into());
            let runs = free(&set, &leased, last);
            let mut all: Vec<IpAddr> = leased.clone();
            all.push([10, 0, 0, gateway].into());
            for (first, last) in runs {
                all.extend((first..=last).map(|one| address(one, true)));
            }
            all.sort();
            let both = leased.contains(&[10, 0, 0, gateway].into());
            prop_assert_eq!(all.len(), 62 + usize::from(both));
            all.dedup();
            prop_assert_eq!(all.len(), 62);
        }
    }
}
