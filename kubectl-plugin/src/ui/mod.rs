//! The live page: the cluster as a picture in a browser on this machine.
//!
//! It listens on loopback only. What the page shows is asked of the agents while someone looks, and
//! not otherwise.

mod door;
mod listen;
mod pages;
mod queue;
mod rates;
mod state;
mod told;
mod view;
mod watch;
mod way;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use clap::Args;
use podwire_agent::error::chain;
use tokio::net::TcpListener;

use crate::reach::Reach;
use door::{Door, Token};
use watch::Watch;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// The port cannot be had.
    #[error(
        "cannot listen on {address}; is the port taken? Choose another with --port, or 0 for any"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no random numbers for the token.
    #[error("cannot make a token: {0}")]
    Token(getrandom::Error),
    /// The server broke.
    #[error("the live page broke")]
    Serve(#[source] std::io::Error),
}

/// An error with all its causes, in one line.
pub fn in_full(error: &UiError) -> String {
    chain(error)
}

/// How to look: the arguments of `ui`.
#[derive(Debug, Clone, Default, Args)]
pub struct Look {
    /// The port on the loopback address, by default any that is free.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
}

impl Look {
    /// Serves the page, and prints its address; `title` says what is looked at.
    pub async fn at(&self, reach: Arc<dyn Reach>, title: String) -> Result<(), UiError> {
        let invite = |address: &str| {
            let mut out = io::stdout();
            // Without a reader the page is of use to no one, but no harm either.
            let _ = writeln!(
                out,
                "{address}\n\nOpen it in a browser on this machine; the address lets in whoever \
                 has it. Ctrl-C ends it."
            );
            let _ = out.flush();
        };
        serve(reach, title, self.port, invite).await
    }
}

/// Serves the page on a loopback port (0: any) until this is dropped. `ready` is told its address,
/// which lets in who has it; `title` says what is looked at.
pub async fn serve(
    reach: Arc<dyn Reach>,
    title: String,
    port: u16,
    ready: impl FnOnce(&str),
) -> Result<(), UiError> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| UiError::Listen { address, source })?;
    let address = listener.local_addr().map_err(UiError::Serve)?;
    let token = Token::new().map_err(UiError::Token)?;
    let home = format!("http://{address}/?token={token}");
    let door = Door::new(address.port(), token);
    let watch = Watch::new(reach, title);
    ready(&home);
    listen::serve(listener, pages::router(door, watch)).await;
    Ok(())
}
