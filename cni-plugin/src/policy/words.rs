//! What the plugin and the agent say to each other: one line of JSON each way.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::json::{Fields, Node, WrongType};

/// An attachment, as far as policies ask about it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attachment {
    /// The host end of its link.
    pub link: String,
    /// The container ID.
    pub container_id: String,
    /// The interface in the container.
    pub ifname: String,
    /// Whose it is, if the runtime told.
    pub pod: Option<PodName>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// A Pod, as the runtime names it. The names are empty where only a link tells of it, in whose alias
/// they have no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, if the runtime told: another Pod may get the same name later.
    pub uid: Option<String>,
}

/// What happened to an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It was made, and its container does not run yet.
    Came,
    /// Its link is gone, and its addresses are still leased.
    Went,
}

/// What the agent answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What the policies say of the addresses is in the kernel.
    Done,
    /// The agent does not know the Pod.
    Unknown,
    /// It did not work.
    Failed(String),
}

impl News {
    const ALL: [Self; 2] = [Self::Came, Self::Went];

    fn word(self) -> &'static str {
        match self {
            Self::Came => "came",
            Self::Went => "went",
        }
    }
}

impl Attachment {
    /// How nftables elements of the attachment are explained there.
    pub fn comment(&self) -> String {
        match &self.pod {
            Some(pod) => format!("{}/{}", pod.namespace, pod.name),
            None => {
                let id = self.container_id.get(..12).unwrap_or(&self.container_id);
                format!("container {id}")
            }
        }
    }

    /// What is said of it, as a line.
    pub fn print(&self, news: News) -> String {
        let mut value = json!({
            "news": news.word(),
            "link": self.link,
            "containerId": self.container_id,
            "ifname": self.ifname,
            "addresses": self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>(),
        });
        if let Some(pod) = &self.pod {
            value["pod"] = json!({"namespace": pod.namespace, "name": pod.name, "uid": pod.uid});
        }
        format!("{value}\n")
    }

    /// Reads what was said, or says what is wrong with it.
    pub fn parse(line: &[u8]) -> Result<(News, Self), String> {
        let value: Value = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let (word, attachment) = Self::read(&value).map_err(|error| error.to_string())?;
        let news = News::ALL.into_iter().find(|one| one.word() == word);
        let news = news.ok_or_else(|| format!("news is {word:?}, which no one here knows"))?;
        Ok((news, attachment))
    }

    fn read(value: &Value) -> Result<(&str, Self), WrongType> {
        let fields = Fields::of_document(value)?;
        let pod = match fields.object("pod")? {
            None => None,
            Some(pod) => {
                let uid = pod.string("uid")?;
                Some(PodName {
                    namespace: pod.string("namespace")?.to_owned(),
                    name: pod.string("name")?.to_owned(),
                    uid: (!uid.is_empty()).then(|| uid.to_owned()),
                })
            }
        };
        let addresses = fields.list("addresses")?;
        let attachment = Self {
            link: fields.string("link")?.to_owned(),
            container_id: fields.string("containerId")?.to_owned(),
            ifname: fields.string("ifname")?.to_owned(),
            pod,
            addresses: addresses
                .iter()
                .map(Node::address)
                .collect::<Result<_, _>>()?,
        };
        Ok((fields.string("news")?, attachment))
    }
}

impl Answer {
    /// As a line.
    pub fn print(&self) -> String {
        let value = match self {
            Self::Done => json!({"answer": "done"}),
            Self::Unknown => json!({"answer": "unknown"}),
            Self::Failed(reason) => json!({"answer": "failed", "reason": reason}),
        };
        format!("{value}\n")
    }

    /// Reads an answer; what cannot be understood is a failure.
    pub fn parse(line: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(line).unwrap_or_default();
        match value["answer"].as_str() {
            Some("done") => Self::Done,
            Some("unknown") => Self::Unknown,
            _ => {
                let reason = value["reason"].as_str();
                Self::Failed(reason.unwrap_or("its answer makes no sense").to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment() -> Attachment {
        Attachment {
            link: "veth5df033ec05b".into(),
            container_id: "0123456789abcdef".into(),
            ifname: "eth0".into(),
            pod: Some(PodName {
                namespace: "shop".into(),
                name: "web-0".into(),
                uid: Some("3f2a".into()),
            }),
            addresses: vec!["10.10.1.2".parse().unwrap(), "fd00::2".parse().unwrap()],
        }
    }

    #[test]
    fn what_is_said_is_understood() {
        let mut nameless = attachment();
        nameless.pod = None;
        let mut without_uid = attachment();
        without_uid.pod.as_mut().unwrap().uid = None;
        for attachment in [attachment(), nameless, without_uid, Attachment::default()] {
            for news in News::ALL {
                let line = attachment.print(news);
                assert_eq!(line.matches('\n').count(), 1);
                let read = Attachment::parse(line.as_bytes());
                assert_eq!(read, Ok((news, attachment.clone())));
            }
        }
        let failed = Answer::Failed("the kernel said\nno".into());
        for answer in [Answer::Done, Answer::Unknown, failed] {
            assert_eq!(Answer::parse(answer.print().as_bytes()), answer);
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_news_and_no_consent() {
        for line in [
            "",
            "[]",
            "{}",
            "{\"news\": \"left\"}",
            "{\"news\": \"came\", \"addresses\": [\"10.10.1\"]}",
            "{\"news\": \"came\", \"pod\": 7}",
        ] {
            assert!(Attachment::parse(line.as_bytes()).is_err(), "{line}");
            let answer = Answer::parse(line.as_bytes());
            assert!(matches!(answer, Answer::Failed(_)), "{line}");
        }
    }

    #[test]
    fn an_element_says_whose_it_is() {
        assert_eq!(attachment().comment(), "shop/web-0");
        let nameless = Attachment {
            pod: None,
            ..attachment()
        };
        assert_eq!(nameless.comment(), "container 0123456789ab");
    }
}
