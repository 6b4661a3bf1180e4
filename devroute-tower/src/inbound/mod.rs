#![doc = include_str!("inbound.md")]

mod body;
mod future;
mod layer;
mod service;
mod span;

pub use self::{
    body::ResponseBody, future::ResponseFuture, layer::DevRouteLayer, service::DevRoute,
};
