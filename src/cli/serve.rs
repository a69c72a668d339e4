//! `orderbell serve`.

use std::convert::Infallible;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use orderbell_protocol::command_output::{ReadyEvent, ReadyLine};
use orderbell_protocol::json;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use super::{CONFIG, ConfigArgs, FAILED, err_line, failed, file_limit, log, out_line, same_options};
use crate::config::{Config, Reloaded};
use crate::server::Server;

/// Exit code when the ledger cannot be written or orders can no longer be read: EX_SOFTWARE of sysexits.
const CANNOT_CONTINUE: i32 = 70;

/// Time that blocking calls are given which nothing durable depends on, after everything else has ended.
const LEFT_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Why `--playground` is refused.
const NOT_ON_LOOPBACK: &str = "--playground gives a token to whoever asks: listen.public must be on loopback, for instance --listen 127.0.0.1:8377";

/// Runs until SIGTERM or SIGINT. On SIGHUP the configuration is read again.
pub(super) fn run(
    config: &Config,
    log_format: log::LogFormat,
    ready_json: bool,
    args: &ConfigArgs,
) -> Result<(), ExitCode> {
    if config.playground && !config.boot.listen.public.ip().is_loopback() {
        err_line(&format!("orderbell: {NOT_ON_LOOPBACK}"));
        return Err(ExitCode::from(CONFIG));
    }
    log::init(LevelFilter::INFO, log_format)?;
    if let Err(why) = file_limit::raise(&config.limits()) {
        err_line(&format!("orderbell: {why}"));
        return Err(ExitCode::from(CONFIG));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
    run_to_end(runtime, serve(config, ready_json, args))
}

/// Dropped, a runtime would wait for every blocking call without end: a look-up of a name, a read from a disk that hangs. What has to be durable
/// is by then: a stop that is clean has closed the ledger, and after any other the process has ended already.
fn run_to_end<T>(runtime: Runtime, serving: impl Future<Output = T>) -> T {
    let ended = runtime.block_on(serving);
    runtime.shutdown_timeout(LEFT_OVER_TIMEOUT);
    ended
}

async fn serve(config: &Config, ready_json: bool, args: &ConfigArgs) -> Result<(), ExitCode> {
    // All handlers are installed before anything starts, so that no signal takes its default action.
    let handlers = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut term), Ok(mut int), Ok(mut hup)) = handlers else {
        return Err(failed("signals cannot be handled"));
    };
    let cannot_continue = |error: &str| {
        // A fresh start from what is durable is better than anything this process could still do.
        err_line(&format!("orderbell: {error}. Exiting at once; everything that was acknowledged is durable."));
        std::process::exit(CANNOT_CONTINUE);
    };
    let server = Server::start(config, config.limits(), cannot_continue).await.map_err(failed)?;
    tracing::info!(public = %server.public(), admin = %server.admin(), data = %config.boot.data_dir.display(), "ready");
    if ready_json {
        out_line(&ready_line(&server));
    } else {
        print_hints(config, &server, args.config.as_deref());
    }
    let reloads = async {
        while hup.recv().await.is_some() {
            reload(args.clone(), server.clone()).await;
        }
        std::future::pending::<Infallible>().await
    };
    let name = tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
        never = reloads => match never {},
    };
    tracing::info!(signal = name, "draining");
    let clean = tokio::select! {
        clean = server.stop() => clean,
        _ = term.recv() => false,
        _ = int.recv() => false,
    };
    tracing::info!(clean, "stopped");
    if !clean {
        // A task hangs: waiting for it would only delay the restart. Everything that was acknowledged is durable.
        std::process::exit(i32::from(FAILED));
    }
    Ok(())
}

/// Reads the configuration again, on a thread of its own: a stop does not wait for a disk that hangs.
async fn reload(args: ConfigArgs, server: Arc<Server>) {
    let reloaded = tokio::task::spawn_blocking(move || args.read().and_then(|config| server.reload(config))).await;
    match reloaded {
        Ok(Ok(Reloaded { applied, needs_restart })) => tracing::info!(?applied, ?needs_restart, "reloaded"),
        Ok(Err(error)) => tracing::error!("reload failed, the configuration is unchanged: {error}"),
        Err(error) => tracing::error!("reload failed: {error}"),
    }
}

/// One line for a process that started this one: where the server listens.
fn ready_line(server: &Server) -> String {
    json::encode(&ReadyLine { event: ReadyEvent::Ready, public: server.public(), admin: server.admin() })
}

/// Commands to copy, so that a newcomer sees the first order within a minute.
fn print_hints(config: &Config, server: &Server, file: Option<&Path>) {
    let (public, same) = (server.public(), same_options(file, &config.boot.data_dir));
    if config.boot.kafka.is_some() && !config.playground {
        out_line(&format!("Orderbell listens on {public}; live, ready and metrics on {}.", server.admin()));
        return;
    }
    if config.playground {
        out_line(&format!(
            "Orderbell listens on {public}; live, ready and metrics on {}. Try it:\n\n  till      http://{public}/playground/till/\n  \
             phone     http://{public}/playground/phone/\n",
            server.admin()
        ));
        return;
    }
    let exe = std::env::args().next().unwrap_or_else(|| "orderbell".into());
    out_line(&format!(
        "\
Orderbell listens on {public}; live, ready and metrics on {admin}. Try it:

  # pay an order
  curl -s http://{public}/v1/events -H \"Authorization: Bearer $({exe} token producer me {same})\" \\
    -H 'Content-Type: application/json' -d '{{\"type\":\"order.paid\",\"id\":\"e1\",\"order\":\"o1\",\"store\":\"17\",\"customer\":\"c1\",\"amount\":1250}}'

  # read the notices of store 17 by polling
  curl -s http://{public}/v1/notices -H \"Authorization: Bearer $({exe} token store 17 {same})\"

  # receive them by push (websocat, or any WebSocket client with subprotocol orderbell.v1)
  websocat --protocol orderbell.v1 ws://{public}/v1/ws
  {{\"type\":\"hello\",\"device\":\"till-1\",\"token\":\"...\"}}        the token of the line above
  {{\"type\":\"ack\",\"position\":\"...\"}}                          the position of the notice that you received
",
        admin = server.admin()
    ));
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// The bug: a name that was looked up during a stop held up the end of the process until it was answered.
    #[test]
    fn a_blocking_call_that_does_not_return_does_not_hold_up_the_end() {
        let (started, is_started) = mpsc::channel();
        let (_never_sends, hold) = mpsc::channel::<()>();
        let (ended, has_ended) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
            let serving = async move {
                drop(tokio::task::spawn_blocking(move || {
                    started.send(()).unwrap();
                    hold.recv()
                }));
                is_started.recv().unwrap();
                7
            };
            ended.send(run_to_end(runtime, serving)).unwrap();
        });
        assert_eq!(has_ended.recv_timeout(Duration::from_secs(60)), Ok(7));
    }
}
