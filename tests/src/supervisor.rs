//! A server process that never outlives the test that started it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A shell stands between the test and the server and takes orders on its standard input. That pipe closes when the
/// test's process ends, however it ends, and then the shell ends the server and removes its folder.
const SHELL: &str = r#"
signal=$1 folder=$2 server=
shift 2
while read -r order; do
    case $order in
        start) "$@" </dev/null >>"$folder/log" 2>&1 & server=$!; echo "$server" ;;
        reap) wait "$server"; echo $?; server= ;;
    esac
done
if [ -n "$server" ]; then
    kill -s "$signal" "$server" && wait "$server"
fi
rm -rf "$folder"
"#;

/// Runs one command, again and again if asked, in a folder that goes when the supervisor does.
#[derive(Debug)]
pub(crate) struct Supervisor {
    shell: Child,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
    server: Option<Pid>,
}

impl Supervisor {
    /// Takes over `folder`, and will end a running server with `signal` (a name without its `SIG`). Starts nothing yet.
    pub(crate) fn new(folder: TempDir, signal: &str, command: &Command) -> Self {
        let mut shell = Command::new("sh")
            .args(["-c", SHELL, "supervisor", signal])
            .arg(folder.path())
            .arg(command.get_program())
            .args(command.get_args())
            .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A signal to the test's group (a runner's timeout, Ctrl-C) must not take the one that tidies up.
            .process_group(0)
            .spawn()
            .expect("`sh` starts");
        let answers = BufReader::new(shell.stdout.take().expect("stdout is piped"));
        Self { shell, answers, folder: folder.keep(), server: None }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The standard output and error of the server so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Starts the command. It runs when this returns, but it may not listen yet.
    pub(crate) fn start(&mut self) {
        assert!(self.server.is_none(), "the server runs already");
        let pid = self.order("start").parse().expect("a process id");
        self.server = Pid::from_raw(pid);
    }

    /// The running server's process id; panics when none runs.
    pub(crate) fn pid(&self) -> Pid {
        self.server.expect("the server was killed and not started again")
    }

    pub(crate) fn is_running(&self) -> bool {
        self.server.is_some()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the server takes a signal");
    }

    /// `kill -9`; returns when the process is gone and its sockets are closed.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.wait();
    }

    /// Waits until the process ends, and returns its exit code: 128 more than the signal if one ended it.
    pub(crate) fn wait(&mut self) -> i32 {
        let code = self.order("reap").parse().expect("an exit code");
        self.server = None;
        code
    }

    fn order(&mut self, order: &str) -> String {
        let stdin = self.shell.stdin.as_mut().expect("stdin is piped");
        writeln!(stdin, "{order}").expect("the supervising shell listens");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("the supervising shell answers");
        answer.trim_end().to_owned()
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // Not a panic: this may run while a failed test unwinds.
        if let Err(error) = self.shell.wait() {
            eprintln!("the supervisor of {} was lost: {error}", self.folder.display());
        }
    }
}
