//! Where cluster objects come from. Only this folder knows Kubernetes' types.
//!
//! A source runs on its own, turns objects into snapshot values and sends them to the reconcile
//! loop: [`Input::Changes`](crate::input::Input) as it learns of them,
//! [`Input::Listed`](crate::input::Input) once when it has delivered everything there is, and
//! [`Input::SourceWarnings`](crate::input::Input) whenever what is wrong with it changes, and
//! [`Input::ApiServerAddress`](crate::input::Input) when it turns to a server at a new address.

pub mod decode;
pub mod kubernetes;
pub mod manifests;
pub mod objects;
