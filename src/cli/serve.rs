//! `orderbell serve`.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::{CONFIG, FAILED, logs, say, tell};
use crate::config::{Config, ConfigError, Reloaded};
use crate::server::Server;

/// The ledger cannot be written, or orders cannot be read any more: the exit code of sysexits' EX_SOFTWARE.
const CANNOT_GO_ON: i32 = 70;

/// Why `--try` is not to be had.
const NOT_ON_LOOPBACK: &str =
    "--try gives a token to whoever asks: listen.public must be on loopback, for instance --listen 127.0.0.1:8377";

/// Runs until SIGTERM or SIGINT. On SIGHUP the configuration is read again.
pub(crate) fn run(config: &Config, reread: &dyn Fn() -> Result<Config, ConfigError>) -> Result<(), ExitCode> {
    if config.trial && !config.listen.public.ip().is_loopback() {
        say(&format!("orderbell: {NOT_ON_LOOPBACK}"));
        return Err(ExitCode::from(CONFIG));
    }
    logs("info");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
        say(&format!("orderbell: no runtime: {error}"));
        ExitCode::from(FAILED)
    })?;
    runtime.block_on(serve(config, reread))
}

async fn serve(config: &Config, reread: &dyn Fn() -> Result<Config, ConfigError>) -> Result<(), ExitCode> {
    let failed = |error: &str| {
        say(&format!("orderbell: {error}"));
        ExitCode::from(FAILED)
    };
    // Both handlers stand before anything starts, so that a signal can never find none.
    let handlers = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) = handlers else {
        return Err(failed("signals cannot be handled"));
    };
    let cannot_go_on = |error: &str| {
        // Nothing that this process could still do is worth more than a clean start from what is durable.
        say(&format!("orderbell: {error}. Ending at once; what was answered is durable."));
        std::process::exit(CANNOT_GO_ON);
    };
    let server =
        Server::start(config, config.limits(), cannot_go_on).await.map_err(|error| failed(&error.to_string()))?;
    tracing::info!(public = %server.public(), admin = %server.admin(), data = %config.data_dir.display(), "ready");
    hint(config, &server);
    let name = loop {
        tokio::select! {
            _ = term.recv() => break "SIGTERM",
            _ = int.recv() => break "SIGINT",
            _ = hup.recv() => match reread().and_then(|config| server.reload(config)) {
                Ok(Reloaded { taken, waits }) => tracing::info!(?taken, waits_for_a_restart = ?waits, "reloaded"),
                Err(error) => tracing::error!("the reload changes nothing: {error}"),
            },
        }
    };
    tracing::info!(signal = name, "draining");
    let clean = tokio::select! {
        clean = server.stop() => clean,
        _ = term.recv() => false,
        _ = int.recv() => false,
    };
    tracing::info!(clean, "stopped");
    if !clean {
        // Something hangs: waiting for it would only make the restart late. What was answered is durable.
        std::process::exit(i32::from(FAILED));
    }
    Ok(())
}

/// Lines to copy: the first order within a minute.
fn hint(config: &Config, server: &Server) {
    let (public, data) = (server.public(), config.data_dir.display());
    if config.kafka.is_some() && !config.trial {
        tell(&format!("Orderbell listens on {public}; live, ready and metrics on {}.", server.admin()));
        return;
    }
    if config.trial {
        tell(&format!(
            "Orderbell listens on {public}; live, ready and metrics on {}. Try it:\n\n  till      http://{public}/try/till/\n  \
             phone     http://{public}/try/phone/\n",
            server.admin()
        ));
        return;
    }
    let exe = std::env::args().next().unwrap_or_else(|| "orderbell".into());
    tell(&format!(
        "\
Orderbell listens on {public}; live, ready and metrics on {admin}. Try it:

  # pay an order
  curl -s http://{public}/v1/events -H \"Authorization: Bearer $({exe} token producer me --data-dir {data})\" \\
    -H 'Content-Type: application/json' -d '{{\"type\":\"order.paid\",\"id\":\"e1\",\"order\":\"o1\",\"store\":\"17\",\"customer\":\"c1\",\"amount\":1250}}'

  # be the till that polls
  curl -s http://{public}/v1/notices -H \"Authorization: Bearer $({exe} token store 17 --data-dir {data})\"

  # be the till that listens (websocat, or any WebSocket client with subprotocol orderbell.v1)
  websocat --protocol orderbell.v1 ws://{public}/v1/ws
  {{\"type\":\"hello\",\"device\":\"till-1\",\"token\":\"...\"}}        the token of the line above
  {{\"type\":\"ack\",\"position\":\"...\"}}                          the position of the notice that came
",
        admin = server.admin()
    ));
}
