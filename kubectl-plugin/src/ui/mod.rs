//! The live page: the cluster as a picture in a browser on this machine.
//!
//! It listens on loopback only. What the page shows is asked of the agents while someone looks, and
//! not otherwise.

mod door;
mod pages;
mod told;
mod view;
mod watch;
mod way;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

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
    axum::serve(listener, pages::router(door, watch))
        .await
        .map_err(UiError::Serve)
}
