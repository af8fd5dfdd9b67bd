//! Child processes: line by line, with a time limit, ended by their handle and by nothing else.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::failure::{Exit, stop};
use crate::progress::Step;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Out,
    Err,
}

/// What a child did next.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// One line, without its end.
    Line(Stream, String),
    /// Both streams are closed.
    Closed,
    /// Nothing within the time asked for.
    Quiet,
}

/// A running child; dropped, it is killed and reaped.
pub struct Job {
    child: Child,
    /// Its input, if it was asked for.
    input: Option<ChildStdin>,
    lines: Receiver<(Stream, String)>,
}

impl Job {
    /// Starts `command` with its output piped and no input.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        Self::start(command, Stdio::null())
    }

    /// Starts `command` with its output and its input piped.
    pub fn spawn_with_input(command: &mut Command) -> Result<Self> {
        Self::start(command, Stdio::piped())
    }

    fn start(command: &mut Command, input: Stdio) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let (sender, lines) = channel();
        if let Some(out) = child.stdout.take() {
            forward(out, Stream::Out, sender.clone());
        }
        if let Some(err) = child.stderr.take() {
            forward(err, Stream::Err, sender);
        }
        let input = child.stdin.take();
        Ok(Self { child, input, lines })
    }

    /// Writes to the child's input.
    pub fn write(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("the child was given no input")?;
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).context("cannot write to the child")
    }

    /// Waits at most `limit` for the next event.
    pub fn next(&self, limit: Duration) -> Event {
        match self.lines.recv_timeout(limit) {
            Ok((stream, line)) => Event::Line(stream, line),
            Err(RecvTimeoutError::Timeout) => Event::Quiet,
            Err(RecvTimeoutError::Disconnected) => Event::Closed,
        }
    }

    /// Waits for the end of a child whose streams are closed.
    pub fn wait(mut self) -> Result<ExitStatus> {
        self.child.wait().context("cannot wait for a child process")
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // Either may fail only because the child is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends the lines of `from` until it ends or nobody listens. Bytes that are no UTF-8 are replaced.
fn forward(from: impl Read + Send + 'static, stream: Stream, to: Sender<(Stream, String)>) {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(length) if length > 0) {
            let text = String::from_utf8_lossy(&line);
            if to.send((stream, text.trim_end_matches(['\r', '\n']).to_owned())).is_err() {
                return;
            }
            line.clear();
        }
    });
}

/// What a finished command left behind.
pub struct Finished {
    pub status: ExitStatus,
    pub out: String,
    /// Both streams as they came.
    pub all: String,
}

impl Finished {
    /// The last `count` lines of the output, for error messages.
    pub fn tail(&self, count: usize) -> String {
        let lines: Vec<&str> = self.all.lines().collect();
        lines[lines.len().saturating_sub(count)..].join("\n")
    }
}

/// Runs `command` to its end under `step`, killing it after `limit`.
pub fn run(command: &mut Command, step: &Step, limit: Duration) -> Result<Finished> {
    let since = Instant::now();
    let job = Job::spawn(command)?;
    let (mut out, mut all) = (String::new(), String::new());
    loop {
        let left = limit.saturating_sub(since.elapsed());
        match job.next(left) {
            Event::Line(stream, line) => {
                step.at(line.trim());
                if stream == Stream::Out {
                    out.push_str(&line);
                    out.push('\n');
                }
                all.push_str(&line);
                all.push('\n');
            }
            Event::Closed => return Ok(Finished { status: job.wait()?, out, all }),
            Event::Quiet => {
                let program = command.get_program().to_string_lossy().into_owned();
                return Err(stop(
                    Exit::Timeout,
                    format!("{program} was still running after {} s and was ended", limit.as_secs()),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn lines_come_whole_and_in_order() {
        let step = Step::new("test");
        let done = run(&mut sh("printf 'one\\r\\ntwo'; exit 3"), &step, Duration::from_secs(20)).unwrap();
        assert_eq!(done.out, "one\ntwo\n");
        assert_eq!(done.status.code(), Some(3));
    }

    #[test]
    fn a_child_that_hangs_is_ended() {
        let step = Step::new("test");
        let since = Instant::now();
        let error = run(&mut sh("exec sleep 60"), &step, Duration::from_millis(200)).err().unwrap();
        assert!(error.to_string().contains("was ended"), "{error}");
        assert!(since.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn what_is_written_reaches_the_child() {
        let mut job = Job::spawn_with_input(&mut sh("read line; echo \"$line there\"")).unwrap();
        job.write("who\n").unwrap();
        assert_eq!(job.next(Duration::from_secs(20)), Event::Line(Stream::Out, "who there".to_owned()));
        let mut deaf = Job::spawn(&mut sh("exit 0")).unwrap();
        assert!(deaf.write("x").is_err());
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Job::spawn(&mut Command::new("/no/such/program")).err().unwrap();
        assert!(format!("{error:#}").contains("/no/such/program"));
    }
}
