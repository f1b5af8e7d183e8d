//! Reads what the rules log, while there is something to be read.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use podwire_kernel::nflog::{Logged, Reader, Record};
use tokio::sync::{mpsc, oneshot, watch};

use crate::feature::{WhoHas, World};
use crate::features::policies::drops::denial::Denial;
use crate::features::policies::drops::told::Told;
use crate::features::policies::drops::{DropLog, Idle};
use crate::input::{Input, Question};
use crate::ours::LOG_GROUP;
use crate::warnings::Notice;

/// The pause before the group is asked for again: another program may have it, or the agent before
/// this one.
const RETRY: Duration = Duration::from_secs(5);
/// What comes within this time is looked up together.
const TOGETHER: Duration = Duration::from_millis(100);
/// No more at a time.
const MOST: usize = 200;

/// Reads drops as long as the loop is there. Each that is to become an Event goes to `events`. Opens
/// its sockets in the network namespace of the calling thread.
pub async fn follow(log: DropLog, inputs: Sender<Input>, events: Option<mpsc::Sender<Notice>>) {
    let mut listener = Listener {
        idle: log.0.idle.subscribe(),
        log,
        inputs,
        events,
        told: Told::default(),
    };
    while listener.idle.wait_for(Option::is_none).await.is_ok() {
        match Reader::open(LOG_GROUP) {
            Ok(reader) => {
                listener.log.set_trouble(None);
                if !listener.read(reader).await {
                    return;
                }
            }
            Err(error) => {
                let text =
                    format!("{error}: another program may read that group; it is tried again");
                listener.log.set_trouble(Some(text));
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

struct Listener {
    log: DropLog,
    inputs: Sender<Input>,
    events: Option<mpsc::Sender<Notice>>,
    idle: watch::Receiver<Idle>,
    told: Told,
}

impl Listener {
    /// Reads until nothing is to be read any longer; false if the loop is gone.
    async fn read(&mut self, mut reader: Reader) -> bool {
        loop {
            let first = tokio::select! {
                changed = self.idle.changed() => match changed {
                    Err(_) => return false,
                    Ok(()) if self.idle.borrow().is_some() => return true,
                    Ok(()) => continue,
                },
                first = reader.next() => first,
            };
            let first = match first {
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
        let question = WhoHas::new(Denial::addresses(&records), reply);
        if self.inputs.send(Input::WhoHas(question)).is_err() {
            return false;
        }
        // No one answers while there is no table any longer.
        let owners = owners.recv().await.unwrap_or_default();
        let (reply, answer) = oneshot::channel();
        let ask = move |world: &World<'_>| Denial::of(&records, world.snapshot, &owners);
        let question = Question::new(ask, reply);
        if self.inputs.send(Input::Ask(question)).is_err() {
            return false;
        }
        let Ok(denials) = answer.await else {
            return false;
        };
        self.tell(&denials);
        self.log.add(denials, lost);
        true
    }

    fn tell(&mut self, denials: &[Denial]) {
        let Some(events) = &self.events else {
            return;
        };
        let moment = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let moment = moment.unwrap_or_default().as_secs();
        for denial in denials {
            if let Some(notice) = self.told.about(denial, Instant::now(), moment) {
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
