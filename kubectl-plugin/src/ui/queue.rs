//! What waits for one open page. It has a limit: what does not fit is counted, and the count is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::Notify;

/// What waits for a viewer at most, in messages.
const WAITING: usize = 64;

/// One message to a viewer.
#[derive(Debug, Clone)]
pub struct News {
    /// The name of the event.
    pub kind: &'static str,
    /// JSON.
    pub data: Arc<str>,
    /// How many things it tells.
    count: usize,
}

impl News {
    /// One value; it tells `count` things.
    pub fn of(kind: &'static str, value: &impl Serialize, count: usize) -> Self {
        let data = serde_json::to_string(value).expect("what the page gets is plain data");
        Self {
            kind,
            data: data.into(),
            count,
        }
    }

    /// A list of things.
    pub fn list<T: Serialize>(kind: &'static str, list: &[T]) -> Self {
        Self::of(kind, &list, list.len())
    }
}

/// What waits for a viewer.
#[derive(Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    came: Notify,
}

#[derive(Default)]
struct Waiting {
    news: VecDeque<News>,
    /// What says how something is now, one of each kind: only the newest is of use.
    newest: VecDeque<News>,
    /// The newest sample, if it did not fit.
    sample: Option<News>,
    missed: usize,
}

/// What a panic left half changed is told as it is.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Queue {
    /// One more message.
    pub fn push(&self, news: News) {
        let mut waiting = lock(&self.waiting);
        let fits = waiting.news.len() < WAITING;
        match news.kind {
            "state" | "rates" | "remarks" => waiting.replace(news),
            "samples" if fits => {
                // An older one would come after it.
                waiting.sample = None;
                waiting.news.push_back(news);
            }
            // A gap in a plot is no connection or drop that no one sees.
            "samples" => waiting.sample = Some(news),
            _ if fits => waiting.news.push_back(news),
            _ => waiting.missed += news.count,
        }
        drop(waiting);
        self.came.notify_one();
    }

    /// The next message.
    pub async fn next(&self) -> News {
        loop {
            if let Some(news) = self.pop() {
                return news;
            }
            self.came.notified().await;
        }
    }

    fn pop(&self) -> Option<News> {
        let mut waiting = lock(&self.waiting);
        let newest = waiting.newest.pop_front();
        let news = newest.or_else(|| waiting.news.pop_front());
        let news = news.or_else(|| waiting.sample.take());
        if news.is_none() && waiting.missed > 0 {
            let missed = std::mem::take(&mut waiting.missed);
            return Some(News::of("missed", &missed, 0));
        }
        news
    }
}

impl Waiting {
    /// In the place of the one of its kind that waits.
    fn replace(&mut self, news: News) {
        let mut waiting = self.newest.iter_mut();
        match waiting.find(|one| one.kind == news.kind) {
            Some(old) => *old = news,
            None => self.newest.push_back(news),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_page_loses_with_a_count_and_always_gets_the_newest_state() {
        let queue = Queue::default();
        for turn in 0..WAITING + 3 {
            queue.push(News::list("flows", &[turn, turn]));
            queue.push(News::of("state", &turn, 0));
        }
        let state = queue.pop().unwrap();
        assert_eq!((state.kind, &*state.data), ("state", "66"));
        for turn in 0..WAITING {
            assert_eq!(&*queue.pop().unwrap().data, format!("[{turn},{turn}]"));
        }
        let missed = queue.pop().unwrap();
        assert_eq!((missed.kind, &*missed.data), ("missed", "6"));
        assert!(queue.pop().is_none());
    }

    #[test]
    fn a_slow_page_gets_the_newest_rates_remarks_and_sample_and_misses_none_of_them() {
        let queue = Queue::default();
        for turn in 0..WAITING {
            queue.push(News::list("flows", &[turn]));
        }
        for turn in 0..3 {
            queue.push(News::of("rates", &turn, 0));
            queue.push(News::list("remarks", &[turn, turn]));
            queue.push(News::list("samples", &[turn]));
        }
        let told = |news: News| (news.kind, news.data.to_string());
        assert_eq!(told(queue.pop().unwrap()), ("rates", "2".into()));
        assert_eq!(told(queue.pop().unwrap()), ("remarks", "[2,2]".into()));
        for _ in 0..WAITING {
            assert_eq!(queue.pop().unwrap().kind, "flows");
        }
        assert_eq!(told(queue.pop().unwrap()), ("samples", "[2]".into()));
        assert!(queue.pop().is_none());
    }

    #[test]
    fn samples_come_in_the_order_of_time() {
        let queue = Queue::default();
        for turn in 0..WAITING {
            queue.push(News::list("flows", &[turn]));
        }
        queue.push(News::list("samples", &[1]));
        queue.pop();
        queue.push(News::list("samples", &[2]));
        let rest = std::iter::from_fn(|| queue.pop());
        let samples = rest.filter(|news| news.kind == "samples");
        let samples: Vec<String> = samples.map(|news| news.data.to_string()).collect();
        assert_eq!(samples, ["[2]"]);
    }
}
