//! What a person sees while work goes on: a spinner with the present step on a terminal, nothing that
//! moves elsewhere, and one line with the time when a step that took over two seconds ends.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Steps shorter than this leave no trace.
const WORTH_A_LINE: Duration = Duration::from_secs(2);

/// One step of work, shown on standard error.
pub struct Step {
    bar: ProgressBar,
    name: String,
    since: Instant,
}

impl Step {
    /// Begins a step; `name` reads like "Building the hypervisor".
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        // Hidden by indicatif itself when standard error is not a terminal.
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {wide_msg:.dim}") {
            bar.set_style(style);
        }
        bar.set_prefix(name.clone());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self { bar, name, since: Instant::now() }
    }

    /// Says what the step is at.
    pub fn at(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// How long the step has run.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        let took = self.since.elapsed();
        if took >= WORTH_A_LINE {
            eprintln!("{} ({:.1} s)", self.name, took.as_secs_f64());
        }
    }
}
