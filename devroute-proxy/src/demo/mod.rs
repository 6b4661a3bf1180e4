//! `devroute demo`: the whole story on loopback, to watch and to try.
//!
//! ```text
//! curl -> sidecar > A -> sidecar > B (cluster)       -> sidecar > C
//!                           \____> B (laptop) _______/
//! ```
//!
//! The sidecars are the real ones, each with its own worker thread and admin listener. Without a
//! contract the cluster's `B` answers; with one the laptop's, and `C` is reached either way. The
//! laptop is another process, to be killed: then the answer says so, or the baseline answers.
//!
//! `--once` tells the story without waiting, checks every answer, and exits with 0 or 1.

pub mod laptop;
mod service;
mod story;
mod world;

use self::story::Story;
use self::world::World;
use crate::ServeError;
use crate::config::DemoConfig;
use crate::shutdown::{self, Signal};

/// Runs the demo: until `signal`, or to the end of the story when `once`; whether all went as told.
///
/// # Errors
///
/// When there is nothing to listen on, or the laptop's process does not start.
pub async fn run(config: DemoConfig, once: bool, mut signal: Signal) -> Result<bool, ServeError> {
    let (trigger, end) = shutdown::channel();
    let mut world = World::start(config, &end).await?;
    let mut story = Story::new(&world, config.on_failure);
    let told = async {
        story.introduce(&world);
        story.with_and_without(&world).await;
        if once {
            story.kill_the_laptop(&mut world).await;
            story.conclude();
            return;
        }
        story.suggest(&world);
        world.laptop.gone().await;
        story.laptop_gone(&world);
        std::future::pending().await
    };
    let interrupted = tokio::select! {
        () = told => false,
        () = signal.wait() => true,
    };
    trigger.shut_down();
    world.end().await;
    Ok(if interrupted { !once } else { story.is_good() })
}
