//! Who is let in: who has the token, from a page of this very server.
//!
//! Any web site may send a browser to a loopback address. So the name by which it was asked for must
//! be loopback's (or another name was made to lead here), a page that asks must come from here, and
//! the token comes in a header, which no other site can set. A cookie would not do: a browser sends
//! it to every port of this address, whoever listens there.

use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use subtle::ConstantTimeEq;

/// The header with the token.
pub const HEADER: HeaderName = HeaderName::from_static("x-podwire-token");

/// 128 random bits.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// A token that no one has yet.
    pub fn new() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes.map(|byte| format!("{byte:02x}")).concat()))
    }

    /// How long this takes says nothing about what is right.
    fn is(&self, given: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(given).into()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is asked of each request.
#[derive(Clone)]
pub struct Door {
    hosts: Arc<[String; 3]>,
    token: Token,
}

/// Why a request is not answered.
pub type Refused = (StatusCode, &'static str);

impl Door {
    /// For a server on this port of loopback.
    pub fn new(port: u16, token: Token) -> Self {
        let hosts = ["127.0.0.1", "localhost", "[::1]"].map(|host| format!("{host}:{port}"));
        Self {
            hosts: Arc::new(hosts),
            token,
        }
    }

    /// Whether a request is for this server, and from a page of it, or of none.
    pub fn is_for_us(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let ours = |text: &str| self.hosts.iter().any(|host| host == text);
        let host = headers
            .get(header::HOST)
            .and_then(|host| host.to_str().ok());
        if !host.is_some_and(ours) {
            return Err((
                StatusCode::MISDIRECTED_REQUEST,
                "ask for the address that was printed, with its port: another name or port, of a tunnel for \
                 example, is not answered\n",
            ));
        }
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(());
        };
        let origin = origin
            .to_str()
            .ok()
            .and_then(|text| text.strip_prefix("http://"));
        match origin.is_some_and(ours) {
            true => Ok(()),
            false => Err((StatusCode::FORBIDDEN, "another site may not ask\n")),
        }
    }

    /// Whether this is the token.
    pub fn is_opened_by(&self, given: &str) -> bool {
        self.token.is(given.as_bytes())
    }

    /// Whether it has the token.
    pub fn has_token(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let given = headers
            .get(HEADER)
            .map_or(&[][..], |value| value.as_bytes());
        match self.token.is(given) {
            true => Ok(()),
            false => Err((
                StatusCode::UNAUTHORIZED,
                "the token is missing or wrong: open the address that was printed at the start\n",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), value.parse().unwrap()))
            .collect()
    }

    #[test]
    fn a_name_that_was_made_to_lead_here_is_refused() {
        let door = Door::new(80, Token::new().unwrap());
        for good in ["127.0.0.1:80", "localhost:80", "[::1]:80"] {
            assert_eq!(door.is_for_us(&headers(&[(header::HOST, good)])), Ok(()));
        }
        for bad in [
            "rebound.example:80",
            "127.0.0.1:81",
            "127.0.0.1",
            "127.0.0.1:80.example",
        ] {
            let refused = door
                .is_for_us(&headers(&[(header::HOST, bad)]))
                .unwrap_err();
            assert_eq!(refused.0, StatusCode::MISDIRECTED_REQUEST, "{bad}");
        }
        assert!(door.is_for_us(&HeaderMap::new()).is_err());
    }

    #[test]
    fn another_site_may_not_ask() {
        let door = Door::new(80, Token::new().unwrap());
        let from = |origin| headers(&[(header::HOST, "127.0.0.1:80"), (header::ORIGIN, origin)]);
        assert_eq!(door.is_for_us(&from("http://127.0.0.1:80")), Ok(()));
        for bad in [
            "http://127.0.0.1:81",
            "https://127.0.0.1:80",
            "http://evil.example",
            "null",
        ] {
            assert!(door.is_for_us(&from(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_whole_token_lets_in() {
        let token = Token::new().unwrap();
        let text = token.to_string();
        assert_eq!(text.len(), 32, "128 bits");
        assert_ne!(text, Token::new().unwrap().to_string());
        let door = Door::new(80, token);
        assert_eq!(door.has_token(&headers(&[(HEADER, &text)])), Ok(()));
        for bad in ["", &text[..31], &format!("{text}0")] {
            assert!(door.has_token(&headers(&[(HEADER, bad)])).is_err());
        }
        assert!(door.has_token(&HeaderMap::new()).is_err());
    }
}
