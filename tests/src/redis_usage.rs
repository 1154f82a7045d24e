//! The commands that a Redis server received, as it counts them.

use std::collections::BTreeMap;

use crate::RedisServer;

/// The commands of opening a connection and asking for the counts.
const OF_THE_COUNT: [&str; 4] = ["info", "hello", "client|setinfo", "auth"];

/// Everything a server was asked for since it was started; or [since](Self::since) another count.
///
/// ```no_run
/// use tests::{RedisServer, RedisUsage};
///
/// let server = RedisServer::start();
/// let before = RedisUsage::of(&server);
/// server.command::<()>(&["SET", "greeting", "hello"]);
/// assert_eq!(RedisUsage::of(&server).since(&before).calls("set"), 1);
/// ```
#[derive(Clone, Debug, Default)]
pub struct RedisUsage {
    calls: BTreeMap<String, u64>,
    /// Of its processor, in microseconds.
    busy: u64,
    messages: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl RedisUsage {
    /// Of `server`, until now.
    #[must_use]
    pub fn of(server: &RedisServer) -> Self {
        // At once, since these messages are counted as well.
        let info: String = server.command(&["INFO", "commandstats", "stats", "cpu"]);
        let mut usage = Self::default();
        for line in info.lines() {
            // cmdstat_get:calls=2,usec=7,usec_per_call=3.50,…
            let Some((command, numbers)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':')) else {
                continue;
            };
            let number = |name: &str| {
                let number = numbers.split(',').find_map(|field| field.strip_prefix(name)?.strip_prefix('='));
                number.and_then(|number| number.parse::<u64>().ok()).expect("a number")
            };
            if !OF_THE_COUNT.contains(&command) {
                usage.calls.insert(command.to_owned(), number("calls"));
            }
        }
        let stat = |name: &str| {
            let number = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            number.and_then(|number| number.parse::<u64>().ok()).expect("a number")
        };
        let seconds = |name: &str| {
            let number = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            number.and_then(|number| number.parse::<f64>().ok()).expect("a number")
        };
        usage.busy = ((seconds("used_cpu_user") + seconds("used_cpu_sys")) * 1e6) as u64;
        usage.messages = stat("total_reads_processed");
        usage.bytes_in = stat("total_net_input_bytes");
        usage.bytes_out = stat("total_net_output_bytes");
        usage
    }

    /// The commands since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let calls = self.calls.iter().map(|(command, calls)| (command.clone(), calls - before.calls(command)));
        Self {
            calls: calls.filter(|(_, calls)| *calls > 0).collect(),
            busy: self.busy - before.busy,
            messages: self.messages - before.messages,
            bytes_in: self.bytes_in - before.bytes_in,
            bytes_out: self.bytes_out - before.bytes_out,
        }
    }

    /// How often one command ran, by itself or in a script; `client|caching` is how its subcommands are called.
    #[must_use]
    pub fn calls(&self, command: &str) -> u64 {
        self.calls.get(command).copied().unwrap_or(0)
    }

    /// How many commands ran, those in scripts as well.
    #[must_use]
    pub fn commands(&self) -> u64 {
        self.calls.values().sum()
    }

    /// How often something came in: of one client that waits for each answer, a round trip each time.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// The cost of each of so many requests, as text.
    #[must_use]
    pub fn per(&self, times: u64) -> String {
        let each = |total: u64| total as f64 / times as f64;
        let calls: Vec<_> = self
            .calls
            .iter()
            .filter(|(_, calls)| each(**calls) >= 0.01)
            .map(|(command, calls)| format!("{command} {:.2}", each(*calls)))
            .collect();
        format!(
            "{:.2} messages, {:.2} commands ({}), {:.0} bytes in, {:.0} out, {:.1} us of its processor",
            each(self.messages),
            each(self.commands()),
            calls.join(", "),
            each(self.bytes_in),
            each(self.bytes_out),
            each(self.busy),
        )
    }
}
