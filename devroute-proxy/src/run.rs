//! From a command line that has been understood to the end of what it asks for.

use std::process::ExitCode;

use tracing::level_filters::LevelFilter;

use crate::authorized::AuthorizedFile;
use crate::cli::Mode;
use crate::config::{
    self, ConfigError, ConnectConfig, DemoConfig, HubConfig, LogConfig, RouterConfig, Settings,
    SidecarConfig,
};
use crate::hub::Hub;
use crate::router::Router;
use crate::shutdown::{self, Signal};
use crate::sidecar::Sidecar;
use crate::{ServeError, connect, contract, demo, explain, manifests, print, telemetry};

/// Runs `mode` to its end; the status is 0 for success and 1 for a failure that has been printed.
///
/// # Errors
///
/// When a flag, a variable or the file is wrong: nothing has been started then.
pub fn run(
    mode: Mode,
    settings: impl FnOnce() -> Result<Settings, ConfigError>,
) -> Result<ExitCode, ConfigError> {
    Ok(match mode {
        Mode::Router(_) => {
            let settings = settings()?;
            let config = RouterConfig::parse(&settings)?;
            telemetry::init(&LogConfig::parse(&settings, LevelFilter::INFO)?);
            serve(async |signal| {
                Router::bind(config)
                    .await?
                    .serve(signal)
                    .await
                    .map(|_| true)
            })
        }
        Mode::Sidecar(_) => {
            let settings = settings()?;
            let config = SidecarConfig::parse(&settings)?;
            telemetry::init(&LogConfig::parse(&settings, LevelFilter::INFO)?);
            serve(async |signal| {
                Sidecar::bind(config)
                    .await?
                    .serve(signal)
                    .await
                    .map(|_| true)
            })
        }
        Mode::Hub(_) => {
            let settings = settings()?;
            let config = HubConfig::parse(&settings)?;
            telemetry::init(&LogConfig::parse(&settings, LevelFilter::INFO)?);
            serve(async |signal| Hub::bind(config).await?.serve(signal).await.map(|_| true))
        }
        Mode::Connect(args) => {
            let settings = settings()?;
            let config = ConnectConfig::parse(&args, &settings)?;
            // What becomes of the connection and of requests is printed; the rest is for whoever looks for it.
            telemetry::init(&LogConfig::parse(&settings, LevelFilter::WARN)?);
            serve(async |signal| connect::run(config, signal).await)
        }
        Mode::Demo(args) => {
            let settings = settings()?;
            let config = DemoConfig::parse(&settings)?;
            telemetry::init(&LogConfig::parse(&settings, LevelFilter::ERROR)?);
            serve(async |signal| demo::run(config, args.once, signal).await)
        }
        Mode::DemoLaptop(args) => demo::laptop::run(args.listen, args.next),
        Mode::Contract(args) => {
            let settings = settings()?;
            if contract::run(&args, &config::policy(&settings)?, &settings)? {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Mode::Manifests(args) => {
            manifests::run(&args)?;
            ExitCode::SUCCESS
        }
        Mode::Explain(args) => {
            let settings = settings()?;
            let signatures = config::signatures(&settings)?;
            let verifier = signatures.as_ref().map(AuthorizedFile::verifier);
            let allowed = explain::run(&args, &config::policy(&settings)?, verifier)?;
            if allowed {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
    })
}

fn serve(run: impl AsyncFnOnce(Signal) -> Result<bool, ServeError>) -> ExitCode {
    let served = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ServeError::setup)
        .and_then(|runtime| {
            runtime.block_on(async {
                let (trigger, signal) = shutdown::channel();
                trigger.on_signals().map_err(ServeError::setup)?;
                run(signal).await
            })
        });
    match served {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print::error(format_args!("devroute: {error}"));
            ExitCode::FAILURE
        }
    }
}
