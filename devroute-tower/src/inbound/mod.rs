#![doc = include_str!("inbound.md")]

mod body;
mod future;
mod layer;
mod service;

pub use self::{
    body::ResponseBody, future::ResponseFuture, layer::DevRouteLayer, service::DevRoute,
};
