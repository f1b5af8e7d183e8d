//! Reads what the rules log, while there is something to be read.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use podwire_kernel::nflog::{Logged, Reader, Record};
use tokio::sync::{mpsc, oneshot};

use crate::drops::DropLog;
use crate::drops::dropped::Dropped;
use crate::drops::place::{Kernel, Place, addresses};
use crate::drops::told::Told;
use crate::feature::{WhoHas, World};
use crate::features::parts::log::Reason;
use crate::input::{Input, Question};
use crate::metrics::Metrics;
use crate::ours::LOG_GROUP;
use crate::warnings::Notice;

/// The pause before the group is asked for again: another program may have it, or the agent before
/// this one.
const RETRY: Duration = Duration::from_secs(5);
/// What comes within this time is looked up together.
const TOGETHER: Duration = Duration::from_millis(100);
/// No more at a time.
const MOST: usize = 200;

/// Reads drops as long as the loop is there, if there can be any to be read. Each that is to become an
/// Event goes to `events`. Opens its sockets in the network namespace of the calling thread.
pub async fn follow(
    log: DropLog,
    inputs: Sender<Input>,
    metrics: Arc<Metrics>,
    events: Option<mpsc::Sender<Notice>>,
) {
    if log.idle.is_some() {
        return;
    }
    let again = "; it is tried again";
    let kernel = opened(&log, again, Kernel::open).await;
    let mut listener = Listener {
        log,
        kernel: Some(kernel),
        metrics,
        inputs,
        events,
        told: Told::default(),
    };
    let again = ": another program may read that group; it is tried again";
    loop {
        let reader = opened(&listener.log, again, || Reader::open(LOG_GROUP)).await;
        listener.log.set_trouble(None);
        if !listener.read(reader).await {
            return;
        }
    }
}

/// What `open` opens, as soon as it does. While it does not the log says why, and `advice`.
async fn opened<T>(log: &DropLog, advice: &str, open: impl Fn() -> podwire_kernel::Result<T>) -> T {
    loop {
        match open() {
            Ok(opened) => return opened,
            Err(error) => {
                log.set_trouble(Some(format!("{error}{advice}")));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

struct Listener {
    log: DropLog,
    /// Not there while it is asked.
    kernel: Option<Kernel>,
    inputs: Sender<Input>,
    metrics: Arc<Metrics>,
    events: Option<mpsc::Sender<Notice>>,
    told: Told,
}

impl Listener {
    /// Reads until that fails; false if the loop is gone.
    async fn read(&mut self, mut reader: Reader) -> bool {
        loop {
            let first = match reader.next().await {
                Ok(first) => first,
                Err(error) => {
                    let text = format!("log group {LOG_GROUP} cannot be read: {error}");
                    self.log.set_trouble(Some(text));
                    tokio::time::sleep(RETRY).await;
                    return true;
                }
            };
            let mut all = vec![first];
            let deadline = tokio::time::Instant::now() + TOGETHER;
            while all.len() < MOST
                && let Ok(Ok(next)) = tokio::time::timeout_at(deadline, reader.next()).await
            {
                all.push(next);
            }
            if !self.take_in(all).await {
                return false;
            }
        }
    }

    /// Asks the loop what these were; false if it is gone.
    async fn take_in(&mut self, all: Vec<Logged>) -> bool {
        let (mut lost, mut records) = (0, Vec::<Record>::new());
        for one in all {
            match one {
                Logged::Record(record) => records.push(record),
                Logged::Lost(number) => lost += number,
            }
        }
        let (reply, mut owners) = mpsc::channel(1);
        let question = WhoHas::new(addresses(&records), reply);
        if self.inputs.send(Input::WhoHas(question)).is_err() {
            return false;
        }
        // No one answers while there is no table any longer.
        let owners = owners.recv().await.unwrap_or_default();
        let (reply, answer) = oneshot::channel();
        let Some((records, place)) = self.look(records).await else {
            return false;
        };
        for reason in records
            .iter()
            .filter_map(|one| Reason::of_prefix(&one.prefix))
        {
            self.metrics.drops.seen(reason.name());
        }
        let ask = move |world: &World<'_>| Dropped::of(&records, world, &owners, &place);
        let question = Question::new(ask, reply);
        if self.inputs.send(Input::Ask(question)).is_err() {
            return false;
        }
        let Ok(drops) = answer.await else {
            return false;
        };
        self.tell(&drops);
        self.log.log.add(drops, lost);
        self.metrics.policies.set_lost(self.log.log.lost());
        true
    }

    /// Asks the kernel about packets, on another thread, as it may take a while.
    async fn look(&mut self, records: Vec<Record>) -> Option<(Vec<Record>, Place)> {
        let mut kernel = self.kernel.take()?;
        let looking = tokio::task::spawn_blocking(move || {
            let place = kernel.look(&records);
            (kernel, records, place)
        });
        let (kernel, records, place) = looking.await.ok()?;
        self.kernel = Some(kernel);
        Some((records, place))
    }

    fn tell(&mut self, drops: &[Dropped]) {
        let Some(events) = &self.events else {
            return;
        };
        let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let moment = moment.unwrap_or_default().as_secs();
        for one in drops {
            if let Some(notice) = self.told.about(one, Instant::now(), moment) {
                offer(events, notice);
            }
        }
    }
}

/// Puts a notice into the queue, of which half stays free for warnings: a burst of drops must not keep
/// them from becoming Events. What does not fit does not become one.
fn offer(events: &mpsc::Sender<Notice>, notice: Notice) {
    if events.capacity() * 2 > events.max_capacity() {
        let _ = events.try_send(notice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warnings::Warning;

    #[test]
    fn a_burst_of_drops_leaves_half_of_the_queue_to_warnings() {
        let (events, queue) = mpsc::channel(8);
        let notice = || Notice::from(&Warning::new("Pod default/a", "x"));
        (0..100).for_each(|_| offer(&events, notice()));
        assert_eq!(queue.len(), 4);
        for _ in 0..4 {
            events.try_send(notice()).unwrap();
        }
        assert!(events.try_send(notice()).is_err());
    }
}
