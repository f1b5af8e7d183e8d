//! The socket on which the plugin tells of attachments: one line of JSON each way.
//!
//! An agent that starts takes the name over from the one before, so that a pod that starts during an
//! upgrade asks the newer one.

use std::io;
use std::sync::mpsc::Sender;
use std::time::Duration;

use podwire::policy::{Answer, Attachment};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::feature::Told;
use crate::input::Input;

/// A longer line is not the plugin's: a container ID and names of Kubernetes fit many times.
const LONGEST: usize = 16 << 10;

/// How long the plugin may take to say its line, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pause after a connection could not be taken, for example for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes what the plugin says, until dropped.
pub async fn serve(listener: UnixListener, inputs: Sender<Input>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(converse(stream, inputs.clone()))),
            Err(error) => {
                tracing::debug!(%error, "cannot take a call of the plugin");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Hears one line and answers it. Without an answer the plugin knows what to do.
async fn converse(stream: UnixStream, inputs: Sender<Input>) {
    let Ok(Ok(line)) = tokio::time::timeout(PATIENCE, hear(&stream)).await else {
        return;
    };
    let answer = match Attachment::parse(&line) {
        Err(reason) => Some(Answer::Failed(format!("it does not understand: {reason}"))),
        Ok((news, attachment)) => {
            let (reply, mut answers) = mpsc::channel(1);
            let told = Box::new(Told::new(news, attachment, reply));
            match inputs.send(Input::Told(told)) {
                Ok(()) => answers.recv().await,
                Err(_) => None,
            }
        }
    };
    if let Some(answer) = answer {
        let text = answer.print();
        let said = tokio::time::timeout(PATIENCE, say(&stream, text.as_bytes())).await;
        if let Ok(Err(error)) = said {
            tracing::debug!(%error, "the plugin did not wait for its answer");
        }
    }
}

/// Reads up to the end of a line, or as much as a line may have.
async fn hear(stream: &UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut part = [0; 1024];
    while line.last() != Some(&b'\n') && line.len() < LONGEST {
        stream.readable().await?;
        match stream.try_read(&mut part) {
            Ok(0) => break,
            Ok(length) => line.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(line)
}

/// Writes a text.
async fn say(stream: &UnixStream, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        stream.writable().await?;
        match stream.try_write(text) {
            Ok(length) => text = &text[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::mpsc as channel;

    use podwire::policy::News;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::serve::socket;

    /// What is answered to a line, with a loop that answers with `answer`.
    async fn exchange(line: &str, answer: Option<Answer>) -> (String, Option<Attachment>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/pods.sock");
        let (inputs, outputs) = channel::channel();
        let held = path.clone();
        let server = tokio::spawn(async move {
            let serve = |listener| serve(listener, inputs.clone());
            socket::hold(&held, socket::PODS, serve, |_| ()).await;
        });
        while !path.exists() {
            tokio::task::yield_now().await;
        }
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let looping = tokio::task::spawn_blocking(move || {
            let Ok(Input::Told(told)) = outputs.recv() else {
                return None;
            };
            if let Some(answer) = answer {
                told.answer(answer);
            }
            assert_eq!(told.news, News::Came);
            Some(told.attachment)
        });
        let mut stream = UnixStream::connect(&path).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        server.abort();
        // The last sender goes with the server, so the loop ends.
        drop(server.await);
        (text, looping.await.unwrap())
    }

    #[tokio::test]
    async fn what_the_plugin_tells_reaches_the_loop_and_the_answer_comes_back() {
        let attachment = Attachment {
            link: "veth0".into(),
            addresses: vec!["10.10.1.2".parse().unwrap()],
            ..Attachment::default()
        };
        let line = attachment.print(News::Came);
        let (text, told) = exchange(&line, Some(Answer::Unknown)).await;
        assert_eq!(Answer::parse(text.as_bytes()), Answer::Unknown);
        assert_eq!(told, Some(attachment));
        let (text, _) = exchange(&line, None).await;
        assert_eq!(text, "");
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_answered_and_does_not_reach_the_loop() {
        for line in ["{}\n".to_owned(), "x".repeat(LONGEST)] {
            let (text, told) = exchange(&line, None).await;
            let answer = Answer::parse(text.as_bytes());
            assert!(matches!(answer, Answer::Failed(_)), "{text}");
            assert_eq!(told, None);
        }
    }
}
