//! One relay: many questions over one pair of streams, each answer to the question it is for.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use podwire_agent::commands::relay::{Answer, Question};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::reach::{Client, Later, ReachError, Reply};

/// What a relay may say when it ends, for the reason.
const LAST_WORDS: u64 = 4096;
/// How long its last words are waited for.
const PARTING: Duration = Duration::from_secs(1);
/// No answer has more bytes; the largest clusters take some ten million.
const LONGEST: u64 = 128 << 20;

/// The streams of a relay that was started.
pub struct Streams {
    /// Where questions are written.
    pub questions: Box<dyn AsyncWrite + Send + Unpin>,
    /// Where answers come from.
    pub answers: Box<dyn AsyncRead + Send + Unpin>,
    /// What it says beside.
    pub errors: Box<dyn AsyncRead + Send + Unpin>,
    /// What must be kept as long as the relay is to run.
    pub keep: Box<dyn Any + Send>,
}

/// A client over a relay; the relay ends with it.
pub struct RelayClient {
    node: String,
    lines: mpsc::Sender<String>,
    waiting: Arc<Mutex<Waiting>>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

#[derive(Default)]
struct Waiting {
    last: u64,
    replies: BTreeMap<u64, oneshot::Sender<Reply>>,
    /// Why nothing more is answered, once it is over.
    over: Option<String>,
}

fn lock(waiting: &Mutex<Waiting>) -> std::sync::MutexGuard<'_, Waiting> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RelayClient {
    /// Asks over these streams.
    pub fn new(node: &str, streams: Streams) -> Self {
        let Streams {
            mut questions,
            answers,
            errors,
            keep,
        } = streams;
        let waiting: Arc<Mutex<Waiting>> = Arc::default();
        let (lines, mut to_write) = mpsc::channel::<String>(16);
        let writing = tokio::spawn(async move {
            while let Some(line) = to_write.recv().await {
                let written = questions.write_all(line.as_bytes()).await;
                if written.is_err() || questions.flush().await.is_err() {
                    // Who reads the answers learns why.
                    return;
                }
            }
        });
        let reading = tokio::spawn(read(answers, errors, keep, Arc::clone(&waiting)));
        Self {
            node: node.to_owned(),
            lines,
            waiting,
            tasks: [writing, reading],
        }
    }

    fn broken(&self, reason: impl Into<String>) -> ReachError {
        ReachError::Broken {
            node: self.node.clone(),
            reason: reason.into(),
        }
    }

    async fn ask(&self, target: &str) -> Result<Reply, ReachError> {
        let (sender, reply) = oneshot::channel();
        let number = {
            let mut waiting = lock(&self.waiting);
            if let Some(why) = &waiting.over {
                return Err(self.broken(why));
            }
            waiting.last += 1;
            let number = waiting.last;
            waiting.replies.insert(number, sender);
            number
        };
        // Who asked may give up: then no one waits for the answer.
        let _open = Open(&self.waiting, number);
        let question = Question {
            number,
            target: target.to_owned(),
        };
        let sent = self.lines.send(question.line()).await;
        match (sent, reply.await) {
            (Ok(()), Ok(reply)) => Ok(reply),
            _ => {
                let why = lock(&self.waiting).over.clone();
                Err(self.broken(why.unwrap_or_else(|| "the relay takes no questions".into())))
            }
        }
    }
}

/// A question that waits for its answer.
struct Open<'a>(&'a Mutex<Waiting>, u64);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        lock(self.0).replies.remove(&self.1);
    }
}

impl Drop for RelayClient {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Client for RelayClient {
    fn ask<'a>(&'a self, target: &'a str) -> Later<'a, Result<Reply, ReachError>> {
        Box::pin(self.ask(target))
    }
}

/// Hands out answers until there are no more, and says why to those who still wait.
async fn read(
    answers: Box<dyn AsyncRead + Send + Unpin>,
    errors: Box<dyn AsyncRead + Send + Unpin>,
    keep: Box<dyn Any + Send>,
    waiting: Arc<Mutex<Waiting>>,
) {
    let hand_out = async {
        let mut answers = BufReader::new(answers);
        let mut line = Vec::new();
        loop {
            line.clear();
            let mut next = (&mut answers).take(LONGEST);
            match next.read_until(b'\n', &mut line).await {
                Ok(0) => return "the relay ended".to_owned(),
                Err(error) => return format!("the connection broke: {error}"),
                Ok(_) if next.limit() == 0 => {
                    return format!("its answer is longer than {} MiB", LONGEST >> 20);
                }
                Ok(_) => {}
            }
            let Some(answer) = Answer::read(&String::from_utf8_lossy(&line)) else {
                let said = String::from_utf8_lossy(&line);
                return format!("the relay says: {}", said.trim());
            };
            let sender = lock(&waiting).replies.remove(&answer.number);
            if let Some(sender) = sender {
                // Who asked may have given up meanwhile.
                let _ = sender.send(Reply {
                    status: answer.status,
                    body: answer.body,
                });
            }
        }
    };
    let listen = async {
        let mut text = Vec::new();
        // Without its last words the end is said all the same.
        let _ = errors.take(LAST_WORDS).read_to_end(&mut text).await;
        reason(&String::from_utf8_lossy(&text))
    };
    tokio::pin!(listen);
    let (ended, said) = {
        tokio::pin!(hand_out);
        tokio::select! {
            ended = &mut hand_out => (ended, None),
            // What is said before the end is said with it.
            words = &mut listen => (hand_out.await, Some(words)),
        }
    };
    // A relay that goes on all the same is not waited for.
    let words = match said {
        Some(words) => words,
        None => timeout(PARTING, listen).await.unwrap_or_default(),
    };
    let mut now = lock(&waiting);
    now.over = Some(match words.is_empty() {
        true => ended,
        false => words,
    });
    now.replies.clear();
    drop(keep);
}

/// What a relay's last words mean: what is wrong is in the first line.
fn reason(words: &str) -> String {
    match words.contains("unrecognized subcommand") {
        true => "it is of an older version, which cannot be asked from elsewhere (it has no \
                 `podwire-agent relay`): upgrade it"
            .to_owned(),
        false => words.lines().next().unwrap_or_default().trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(
        says: &'static str,
    ) -> (
        RelayClient,
        tokio::io::DuplexStream,
        tokio::io::DuplexStream,
    ) {
        let (questions, asked) = tokio::io::duplex(1024);
        let (replies, answers) = tokio::io::duplex(1024);
        let streams = Streams {
            questions: Box::new(questions),
            answers: Box::new(answers),
            errors: Box::new(says.as_bytes()),
            keep: Box::new(()),
        };
        (RelayClient::new("worker", streams), asked, replies)
    }

    #[tokio::test]
    async fn each_answer_goes_to_its_question_in_whatever_order_they_come() {
        let (client, asked, mut replies) = client("");
        let far = async {
            let mut lines = BufReader::new(asked).lines();
            assert_eq!(lines.next_line().await.unwrap().unwrap(), "1 /a");
            assert_eq!(lines.next_line().await.unwrap().unwrap(), "2 /b");
            replies
                .write_all(b"2 404 \"no /b\"\n1 200 {}\n")
                .await
                .unwrap();
        };
        let (a, b, ()) = tokio::join!(client.ask("/a"), client.ask("/b"), far);
        assert_eq!((a.unwrap().status, b.unwrap().body), (200, "no /b".into()));
        // A question whose asker gives up leaves nothing behind.
        drop(client.ask("/c"));
        assert!(lock(&client.waiting).replies.is_empty());
    }

    #[test]
    fn an_agent_without_a_relay_is_called_old() {
        let words = "error: unrecognized subcommand 'relay'\n\nUsage: podwire-agent <COMMAND>\n";
        assert!(reason(words).starts_with("it is of an older version"));
    }

    #[tokio::test]
    async fn a_relay_that_ends_says_why_to_those_who_wait_and_to_those_who_come() {
        let (client, _asked, replies) = client("podwire-agent: no such \u{1b}command\nmore\n");
        let end = async { drop(replies) };
        let (answer, ()) = tokio::join!(client.ask("/a"), end);
        for error in [answer.unwrap_err(), client.ask("/b").await.unwrap_err()] {
            assert_eq!(
                error.to_string(),
                r"cannot ask the agent on node worker: podwire-agent: no such \u{1b}command"
            );
        }
    }
}
