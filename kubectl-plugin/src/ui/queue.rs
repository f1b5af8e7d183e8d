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
    /// Only the newest state is of use.
    state: Option<News>,
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
        if news.kind == "state" {
            waiting.state = Some(news);
        } else if waiting.news.len() < WAITING {
            waiting.news.push_back(news);
        } else {
            waiting.missed += news.count;
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
        if let Some(state) = waiting.state.take() {
            return Some(state);
        }
        let news = waiting.news.pop_front();
        if news.is_none() && waiting.missed > 0 {
            let missed = std::mem::take(&mut waiting.missed);
            return Some(News::of("missed", &missed, 0));
        }
        news
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
}
