//! Measures what a large nftables table costs: `cargo run --release -p podwire-kernel --example
//! nft_scale`, as root. Everything happens in a network namespace of its own, which goes with the
//! process. Times are given twice: by the wall clock, and what this thread took of a processor, in the
//! kernel too, which does not depend on what else the machine does.

use std::error::Error;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use podwire_kernel::nft::{
    Batch, Chain, ChainType, ElementRef, Family, Field, Hook, KeyBuf, NftSocket, Rule, Set, Source,
    ValueRef, Verdict, priority,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const TABLE: &str = "podwire-scale";
const SERVICE: [Field; 3] = [Field::IpDaddr, Field::L4Proto, Field::ThDport];
const SLOT: [Field; 4] = [Field::IpDaddr, Field::L4Proto, Field::ThDport, Field::Slot];
const ENDPOINT: [Field; 2] = [Field::IpDaddr, Field::ThDport];

/// Services with this many endpoints each.
struct Scale {
    services: u32,
    endpoints: u32,
    counters: bool,
    comments: bool,
}

struct Sets {
    services: Set,
    endpoints: Set,
}

impl Scale {
    fn sets(&self) -> Sets {
        let counted = |set: Set| {
            if self.counters {
                set.with_counters()
            } else {
                set
            }
        };
        Sets {
            services: counted(Set::verdict_map(&SERVICE)),
            endpoints: counted(Set::map(&SLOT, &ENDPOINT)),
        }
    }
}

fn main() -> Outcome<()> {
    podwire_kernel::netns::unshare_thread()?;
    let mut socket = NftSocket::open()?;
    println!("one Service is one verdict element, each endpoint one more; medians of 5 runs;");
    println!("times in ms of the wall clock / of a processor\n");
    println!(
        "services endpoints counters comments    MB          encode          commit  kernel MB"
    );
    for (services, endpoints) in [(1_000, 10), (10_000, 10), (44_000, 2)] {
        measure_load(
            &mut socket,
            &Scale {
                services,
                endpoints,
                counters: true,
                comments: true,
            },
        )?;
    }
    for (counters, comments) in [(false, false), (true, false), (false, true), (true, true)] {
        let scale = Scale {
            services: 100_000,
            endpoints: 0,
            counters,
            comments,
        };
        measure_load(&mut socket, &scale)?;
    }
    measure_changes(&mut socket)?;
    println!("\npeak RSS of this process: {} KiB", status("VmHWM:")?);
    Ok(())
}

fn measure_load(socket: &mut NftSocket, scale: &Scale) -> Outcome<()> {
    let (mut encodes, mut commits, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    let mut batch = Batch::new();
    for _ in 0..5 {
        remove(socket)?;
        let before = kernel_memory()?;
        batch.clear();
        let start = Watch::start()?;
        declare(&mut batch, &scale.sets());
        fill(&mut batch, scale);
        encodes.push(start.read()?);
        let start = Watch::start()?;
        socket.commit(&mut batch)?;
        commits.push(start.read()?);
        memory.push(kernel_memory()?.saturating_sub(before));
    }
    memory.sort();
    println!(
        "{:8} {:9} {:8} {:8} {:5.1} {:>15} {:>15} {:10.1}",
        scale.services,
        scale.endpoints,
        scale.counters,
        scale.comments,
        batch.byte_len() as f64 / 1e6,
        both(&mut encodes, 50, 1e3),
        both(&mut commits, 50, 1e3),
        memory[memory.len() / 2] as f64 / 1024.0,
    );
    Ok(())
}

/// Single changes in a table of 10,000 Services with 10 endpoints each.
fn measure_changes(socket: &mut NftSocket) -> Outcome<()> {
    let scale = Scale {
        services: 10_000,
        endpoints: 10,
        counters: true,
        comments: true,
    };
    let sets = scale.sets();
    remove(socket)?;
    let mut batch = Batch::new();
    declare(&mut batch, &sets);
    fill(&mut batch, &scale);
    socket.commit(&mut batch)?;
    println!("\none change among 10,000 Services x 10 endpoints, 500 times each:");
    println!(
        "us of the wall clock / of a processor {:>20} {:>20}",
        "median", "p99"
    );
    let mut timed = |what: &str, write: &dyn Fn(&mut Batch, u32)| -> Outcome<()> {
        let mut times = Vec::new();
        for number in 0..500 {
            let start = Watch::start()?;
            batch.clear();
            write(&mut batch, number);
            socket.commit(&mut batch)?;
            times.push(start.read()?);
        }
        let (median, slow) = (both(&mut times, 50, 1e6), both(&mut times, 99, 1e6));
        println!("{what:37} {median:>20} {slow:>20}");
        Ok(())
    };
    let mut data = KeyBuf::new();
    endpoint(0, 0, &mut data);
    let spare = |number: u32| service(20_000 + number).number(0);
    timed("add an element", &|batch, number| {
        let key = spare(number);
        let element = element(&key, ValueRef::Data(&data));
        batch
            .table(Family::Ip, TABLE)
            .elements("endpoints", &sets.endpoints)
            .add(&element);
    })?;
    timed("delete an element", &|batch, number| {
        let mut writer = batch.table(Family::Ip, TABLE);
        writer
            .elements("endpoints", &sets.endpoints)
            .delete(&spare(number), None);
    })?;
    timed("replace an element", &|batch, number| {
        let key = service(number % 10_000).number(3);
        let element = element(&key, ValueRef::Data(&data));
        let mut writer = batch.table(Family::Ip, TABLE);
        let mut elements = writer.elements("endpoints", &sets.endpoints);
        elements.delete(&key, None).add(&element);
    })?;
    let verdicts = [Verdict::goto("pick-2"), Verdict::goto("pick-10")];
    timed(
        "replace an element that leads to a chain",
        &|batch, number| {
            let key = service(number % 10_000);
            let element = element(&key, ValueRef::Verdict(&verdicts[number as usize % 2]));
            let mut writer = batch.table(Family::Ip, TABLE);
            let mut elements = writer.elements("services", &sets.services);
            elements.delete(&key, None).add(&element);
        },
    )?;
    timed("flush a chain and add 2 rules", &|batch, _| {
        let rule = Rule::new().counter().returns();
        let mut writer = batch.table(Family::Ip, TABLE);
        writer
            .flush_chain("pick-2")
            .add_rule("pick-2", &rule)
            .add_rule("pick-2", &rule);
    })?;
    for (name, header) in [("services", &sets.services), ("endpoints", &sets.endpoints)] {
        let start = Watch::start()?;
        let mut found = 0u64;
        socket.each_element(Family::Ip, TABLE, name, header, |_, _| found += 1)?;
        let time = both(&mut [start.read()?], 50, 1e3);
        println!("list {found} elements: {time} ms");
    }
    measure_closing(&sets)
}

/// A process that deletes an element and ends, as the plugin does in DEL.
fn measure_closing(sets: &Sets) -> Outcome<()> {
    let (mut closed_at_once, mut closed_later) = (Vec::new(), Vec::new());
    let mut batch = Batch::new();
    for number in 0..60 {
        let mut socket = NftSocket::open()?;
        batch.clear();
        let key = service(5_000 + number).number(7);
        let mut writer = batch.table(Family::Ip, TABLE);
        writer
            .elements("endpoints", &sets.endpoints)
            .delete(&key, None);
        socket.commit(&mut batch)?;
        let later = number % 2 == 1;
        if later {
            std::thread::sleep(Duration::from_millis(40));
        }
        let start = Watch::start()?;
        drop(socket);
        if later {
            &mut closed_later
        } else {
            &mut closed_at_once
        }
        .push(start.read()?);
    }
    let (at_once, later) = (
        both(&mut closed_at_once, 50, 1e3),
        both(&mut closed_later, 50, 1e3),
    );
    println!("close the socket after a deletion: at once {at_once} ms, after 40 ms {later} ms");
    Ok(())
}

fn remove(socket: &mut NftSocket) -> Outcome<()> {
    let mut batch = Batch::new();
    batch.table(Family::Ip, TABLE).destroy();
    socket.commit(&mut batch)?;
    // The kernel frees elements after a grace period, in a work queue: wait until it has.
    let mut last = kernel_memory()?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(2) {
        std::thread::sleep(Duration::from_millis(200));
        let now = kernel_memory()?;
        if now >= last {
            break;
        }
        last = now;
    }
    Ok(())
}

fn declare(batch: &mut Batch, sets: &Sets) {
    let mut writer = batch.table(Family::Ip, TABLE);
    writer
        .add(None)
        .add_set("services", &sets.services)
        .add_set("endpoints", &sets.endpoints);
    for count in [2, 10] {
        let chain = format!("pick-{count}");
        let key: Vec<Source> = SERVICE
            .iter()
            .map(|field| Source::Field(*field))
            .chain([Source::random(count)])
            .collect();
        writer.add_chain(&chain, &Chain::regular());
        writer.add_rule(
            &chain,
            &Rule::new().dnat_map(Family::Ip, &key, "endpoints", true),
        );
    }
    let base = Chain::base(ChainType::Nat, Hook::Prerouting, priority::DSTNAT);
    writer.add_chain("prerouting", &base);
    writer.add_rule("prerouting", &Rule::new().verdict_map(&SERVICE, "services"));
}

fn fill(batch: &mut Batch, scale: &Scale) {
    let sets = scale.sets();
    let verdict = Verdict::goto(if scale.endpoints == 2 {
        "pick-2"
    } else {
        "pick-10"
    });
    let mut comment = String::new();
    let mut writer = batch.table(Family::Ip, TABLE);
    let mut elements = writer.elements("services", &sets.services);
    for number in 0..scale.services {
        name(number, &mut comment);
        let key = service(number);
        let value = ValueRef::Verdict(&verdict);
        let comment = scale.comments.then_some(&comment[..]);
        elements.add(&ElementRef {
            comment,
            ..element(&key, value)
        });
    }
    let mut elements = writer.elements("endpoints", &sets.endpoints);
    let (mut key, mut data) = (KeyBuf::new(), KeyBuf::new());
    for number in 0..scale.services {
        name(number, &mut comment);
        for slot in 0..scale.endpoints {
            key.clear();
            key.push(&service(number)).push_number(slot);
            endpoint(number, slot, &mut data);
            let comment = scale.comments.then_some(&comment[..]);
            elements.add(&ElementRef {
                comment,
                ..element(&key, ValueRef::Data(&data))
            });
        }
    }
}

fn element<'a>(key: &'a [u8], value: ValueRef<'a>) -> ElementRef<'a> {
    ElementRef {
        key,
        key_end: None,
        value,
        timeout: None,
        comment: None,
    }
}

fn service(number: u32) -> KeyBuf {
    KeyBuf::new()
        .address(Ipv4Addr::from(0x0a60_0000 + number))
        .protocol(6)
        .port(80)
}

fn endpoint(number: u32, slot: u32, data: &mut KeyBuf) {
    data.clear();
    data.push_address(Ipv4Addr::from(0x0a80_0000 + number * 10 + slot).into())
        .push_port(8080);
}

fn name(number: u32, out: &mut String) {
    use std::fmt::Write;
    out.clear();
    // Writing into a String cannot fail.
    let _ = write!(out, "namespace-{}/service-{number}:http", number % 100);
}

/// Slabs that cannot be reclaimed, and memory of each processor (counters), in KiB.
fn kernel_memory() -> Outcome<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0)
    };
    Ok(line("SUnreclaim:") + line("Percpu:"))
}

fn status(name: &str) -> Outcome<String> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or("");
    Ok(line.split_whitespace().next().unwrap_or("?").to_owned())
}

/// Wall clock and time of a processor.
struct Watch {
    wall: Instant,
    processor: Duration,
}

impl Watch {
    fn start() -> Outcome<Self> {
        let processor = processor_time()?;
        Ok(Self {
            wall: Instant::now(),
            processor,
        })
    }

    fn read(&self) -> Outcome<(Duration, Duration)> {
        Ok((self.wall.elapsed(), processor_time()? - self.processor))
    }
}

/// What this thread took of a processor so far, in user space and in the kernel.
fn processor_time() -> Outcome<Duration> {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID)?;
    Ok(Duration::from(time))
}

/// The percentile of both, each for itself, times `unit` (1e3: milliseconds).
fn both(times: &mut [(Duration, Duration)], percentile: usize, unit: f64) -> String {
    let mut one = |part: fn(&(Duration, Duration)) -> Duration| {
        times.sort_by_key(part);
        part(&times[(times.len() * percentile / 100).min(times.len() - 1)]).as_secs_f64() * unit
    };
    format!("{:.1} / {:.1}", one(|time| time.0), one(|time| time.1))
}
