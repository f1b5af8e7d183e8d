//! `podwire-agent relay`: many questions to the agent of this node over one pair of pipes.
//!
//! One question a line on standard input: its number, a space, and what is asked for (a path and
//! perhaps a query). One answer a line on standard output, in any order: the number, the status as
//! in HTTP, and the body as JSON on one line; a body that is not JSON comes as a JSON string.
//! Questions are answered side by side. The relay ends when its input has ended and everything is
//! answered, or when no one reads the answers.

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc as blocking;
use std::thread;

use clap::Args;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::commands::agent::{Agent, get};
use crate::error::chain;
use crate::ours::SOCKET;

/// Questions that are answered at a time; what comes meanwhile waits in the pipe.
const AT_A_TIME: usize = 64;
/// A longer line is no question.
const LONGEST: u64 = 64 * 1024;
/// What the relay answers if the agent cannot be asked, as a gateway does.
const BAD_GATEWAY: u16 = 502;
const BAD_REQUEST: u16 = 400;

/// The flags of `podwire-agent relay`.
#[derive(Debug, Args)]
pub struct Relay {
    /// Which agent to ask.
    #[command(flatten)]
    pub agent: Agent,
}

/// One question, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Its number, which the answer has too.
    pub number: u64,
    /// What is asked for: a path and perhaps a query.
    pub target: String,
}

/// One answer, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The question's number.
    pub number: u64,
    /// The status, as in HTTP.
    pub status: u16,
    /// The body: JSON, or a text.
    pub body: String,
}

impl Question {
    /// Reads a line.
    pub fn read(line: &str) -> Option<Self> {
        let (number, target) = line.trim_end().split_once(' ')?;
        let number = number.parse().ok()?;
        let target = target.trim();
        // What else it must be to be asked for, the request itself says.
        target.starts_with('/').then(|| Self {
            number,
            target: target.to_owned(),
        })
    }

    /// The line for it, with its end.
    pub fn line(&self) -> String {
        format!("{} {}\n", self.number, self.target)
    }
}

impl Answer {
    /// Reads a line. A body that is a JSON string is taken for the text in it.
    pub fn read(line: &str) -> Option<Self> {
        let mut parts = line.trim_end().splitn(3, ' ');
        let number = parts.next()?.parse().ok()?;
        let status = parts.next()?.parse().ok()?;
        let body = parts.next()?;
        let body = match serde_json::from_str::<String>(body) {
            Ok(text) => text,
            Err(_) => body.to_owned(),
        };
        Some(Self {
            number,
            status,
            body,
        })
    }

    /// The line for it, with its end.
    pub fn line(&self) -> String {
        format!(
            "{} {} {}\n",
            self.number,
            self.status,
            on_one_line(&self.body)
        )
    }
}

/// A JSON document as it is, but for breaks of lines between its parts; anything else, a lone JSON
/// string too, as a JSON string.
fn on_one_line(body: &str) -> String {
    let body = body.trim();
    let is_json = !body.starts_with('"') && serde_json::from_str::<&RawValue>(body).is_ok();
    if is_json {
        // JSON has no breaks of lines inside of strings.
        body.replace(['\n', '\r'], " ")
    } else {
        serde_json::Value::from(body).to_string()
    }
}

impl Relay {
    /// Answers until the questions end.
    pub async fn run(&self) {
        let path = self.agent.run_dir.join(SOCKET);
        carry(path, questions(io::stdin()), answers(io::stdout())).await;
    }
}

/// Reads questions on a thread of its own: a read from a pipe or terminal cannot be awaited
/// everywhere, and cannot be given up.
fn questions(input: impl Read + Send + 'static) -> mpsc::Receiver<Result<Question, String>> {
    let (sender, receiver) = mpsc::channel(1);
    thread::spawn(move || {
        let mut input = io::BufReader::new(input);
        while let Some(line) = next_line(&mut input) {
            let read = Question::read(&line);
            if sender.blocking_send(read.ok_or(line)).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The next line that is not empty; none at the end, and none after a line without an end.
fn next_line(input: &mut impl BufRead) -> Option<String> {
    loop {
        let mut line = Vec::new();
        let read = input.take(LONGEST).read_until(b'\n', &mut line).ok()?;
        if read == 0 || read as u64 == LONGEST && line.last() != Some(&b'\n') {
            return None;
        }
        let line = String::from_utf8_lossy(&line);
        if !line.trim().is_empty() {
            return Some(line.into_owned());
        }
    }
}

/// Where answers go.
struct Answers {
    lines: blocking::SyncSender<String>,
    /// Resolves when no one reads any longer, or when all is written.
    ended: tokio::sync::oneshot::Receiver<()>,
}

/// Writes answers on a thread of its own: who reads slowly keeps no question from being answered.
fn answers(mut output: impl Write + Send + 'static) -> Answers {
    let (lines, written) = blocking::sync_channel::<String>(AT_A_TIME);
    let (end, ended) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        for line in written {
            let done = output
                .write_all(line.as_bytes())
                .and_then(|()| output.flush());
            if done.is_err() {
                break;
            }
        }
        // Without a relay no one has to know.
        let _ = end.send(());
    });
    Answers { lines, ended }
}

async fn carry(
    path: PathBuf,
    mut questions: mpsc::Receiver<Result<Question, String>>,
    answers: Answers,
) {
    let Answers { lines, mut ended } = answers;
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut ended => return,
            _ = open.join_next(), if !open.is_empty() => {}
            question = questions.recv(), if open.len() < AT_A_TIME => match question {
                None => break,
                Some(question) => {
                    let (path, lines) = (path.clone(), lines.clone());
                    open.spawn(async move {
                        let line = answer(&path, question).await.line();
                        // There is room for as many as are asked; a slow reader is waited for by
                        // a thread that may block.
                        let _ = tokio::task::spawn_blocking(move || lines.send(line)).await;
                    });
                }
            },
        }
    }
    drop(lines);
    tokio::select! {
        _ = &mut ended => return,
        () = async { while open.join_next().await.is_some() {} } => {}
    }
    let _ = ended.await;
}

async fn answer(path: &Path, question: Result<Question, String>) -> Answer {
    let Question { number, target } = match question {
        Ok(question) => question,
        Err(line) => {
            let number = line.split(' ').next().and_then(|word| word.parse().ok());
            return Answer {
                number: number.unwrap_or(0),
                status: BAD_REQUEST,
                body: "write a question as its number, a space, and a path".into(),
            };
        }
    };
    let (status, body) = match get(path, &target).await {
        Ok((status, body)) => (status.as_u16(), body),
        Err(error) => (BAD_GATEWAY, chain(&error)),
    };
    Answer {
        number,
        status,
        body,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::StatusCode;
    use tokio::sync::Notify;

    use super::*;
    use crate::serve::connections::Listener;
    use crate::serve::http::{Request, Response, Server};
    use crate::serve::socket::{COMMANDS, listen};

    /// Answers `/now` at once, and `/late` when that is said.
    fn server(path: &Path, late: &Arc<Notify>) -> Server {
        let late = Arc::clone(late);
        let listener = Listener::Unix(listen(path, COMMANDS).unwrap().0);
        Server::start(listener, move |request: Request| {
            let late = Arc::clone(&late);
            async move {
                match request.path.as_str() {
                    "/late" => {
                        late.notified().await;
                        Response::json(StatusCode::OK, "{\n \"a\": \"late\\n\"}\n")
                    }
                    "/now" => Response::text(StatusCode::OK, "two\nlines"),
                    _ => Response::not_found(&request),
                }
            }
        })
    }

    async fn relayed(path: &Path, input: &str) -> Vec<String> {
        let (mut reader, writer) = io::pipe().unwrap();
        let input = io::Cursor::new(input.to_owned().into_bytes());
        carry(path.to_owned(), questions(input), answers(writer)).await;
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[tokio::test]
    async fn questions_are_answered_side_by_side_and_one_that_waits_holds_up_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let late = Arc::new(Notify::new());
        let _server = server(&path, &late);
        let (reader, writer) = io::pipe().unwrap();
        let input = io::Cursor::new(b"1 /late\n\n2 /now\n".to_vec());
        let mut lines = io::BufReader::new(reader).lines();
        let (mut said, carried) = (
            Vec::new(),
            carry(path.clone(), questions(input), answers(writer)),
        );
        let first = tokio::task::spawn_blocking(move || (lines.next().unwrap().unwrap(), lines));
        let heard = async {
            let (line, lines) = first.await.unwrap();
            late.notify_one();
            (line, lines)
        };
        let ((), (line, lines)) = tokio::join!(carried, heard);
        said.push(line);
        said.extend(lines.map(Result::unwrap));
        assert_eq!(
            said,
            [r#"2 200 "two\nlines""#, r#"1 200 {  "a": "late\n"}"#]
        );
        let lines = relayed(&path, "9 /nowhere\n").await;
        assert_eq!(lines, [r#"9 404 "there is no /nowhere""#]);
    }

    #[tokio::test]
    async fn what_is_no_question_and_an_agent_that_is_gone_are_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        for (line, status) in [("3 /status", 502), ("3 status", 400), ("3", 400)] {
            let lines = relayed(&path, line).await;
            let answer = Answer::read(&lines[0]).unwrap();
            assert_eq!((answer.number, answer.status), (3, status), "{lines:?}");
        }
        let long = "x".repeat(70_000);
        assert_eq!(relayed(&path, &format!("1 /{long}\n")).await, [""; 0]);
    }

    #[tokio::test]
    async fn the_relay_ends_when_no_one_reads_its_answers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let (input, mut typed) = io::pipe().unwrap();
        typed.write_all(b"1 /status\n").unwrap();
        // `typed` stays open: it is not the end of the questions that ends this.
        carry(path, questions(input), answers(writer)).await;
        drop(typed);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let question = Question {
            number: 7,
            target: "/why?from=default%2Fa&to=web".into(),
        };
        assert_eq!(question.line(), "7 /why?from=default%2Fa&to=web\n");
        assert_eq!(Question::read(&question.line()), Some(question));
        for body in ["{\"node\":1}", "plain \u{1b}[2J", "\"quoted\"", "[]", ""] {
            let answer = Answer {
                number: 7,
                status: 200,
                body: body.into(),
            };
            assert_eq!(Answer::read(&answer.line()), Some(answer));
        }
    }
}
