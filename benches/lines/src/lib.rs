//! A deterministic model of cache-line ownership, for more CPUs than there are.
//!
//! # What it models
//! A line is owned by one CPU, which may write it, or shared by some, which may read it. An access that the
//! present state allows is a hit. Any other asks for the line, which takes [`Costs::moved`]: half of it until
//! the request is with whoever has the line, who goes on using it until then, and half until the line is
//! here; of which [`Costs::overlap`] passes beside other work. Requests for one line are served in the order in which they were made, and a CPU keeps what it was
//! given for [`Costs::hold`] ("serialised steps": the time a request waits for those before it). A store does not wait: it is
//! left behind in a buffer, and the next locked instruction or barrier waits until the lines it wants are
//! there. The first touch of a line by anyone is not a move. Only accesses by atomics are seen; copied bytes,
//! arguments and code are each CPU's own, and what they take is spread over the accesses ([`Costs::pace`]).
//!
//! # How it runs
//! Code written against the atomics of [`atomic`] runs as it is, once for each CPU, each in a coroutine of
//! one thread ([`run`]). Each CPU has a clock. Before an access, and when it spins, a CPU lets those go on whose
//! clocks are behind its own; so accesses happen in the order of their times, locks are waited for and
//! compare-exchanges fail and are tried again, as they would be. There is no
//! randomness: a run repeats, if the words lie at the same places in their lines.
//!
//! # How far it holds
//! The costs are a machine's, measured by themselves; `simulate` sets the model beside real runs on two
//! processors, and the report shows both.

pub mod atomic;
mod model;

pub use model::{Costs, Totals, reset_clocks, run};
