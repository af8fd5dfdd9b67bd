//! The chosen kernel and the ways to name it: the crate's one place of dispatch.

use crate::arch::Isa;
use crate::arch::avx2::Avx2;
use crate::arch::avx512::Avx512;
use crate::arch::rep::Rep;
use crate::arch::sse2::Sse2;
use crate::cpu;
use crate::select::{self, Scratch, Selection};
use crate::session::Session;

/// What `copy=` may ask for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Choice {
    /// Measure at boot and take the fastest.
    #[default]
    Auto,
    /// `REP MOVS` above short lengths.
    Rep,
    /// SSE2: 16-byte vectors.
    Sse2,
    /// AVX2: 32-byte vectors.
    Avx2,
    /// AVX-512: 64-byte vectors.
    Avx512,
}

impl Choice {
    /// Every choice, in the order of the documentation.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Rep, Self::Sse2, Self::Avx2, Self::Avx512];

    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Rep => Rep::NAME,
            Self::Sse2 => Sse2::NAME,
            Self::Avx2 => Avx2::NAME,
            Self::Avx512 => Avx512::NAME,
        }
    }

    /// Reads the value of `copy=`.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == word)
    }
}

/// The kernel that `copy=` names cannot run here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unavailable(pub Choice);

impl core::fmt::Display for Unavailable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "copy={}: this processor lacks it, or XCR0 does not enable it", self.0.name())
    }
}

impl core::error::Error for Unavailable {}

/// A kernel, with the proof that it can run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kernel {
    Rep(Rep),
    Sse2(Sse2),
    Avx2(Avx2),
    Avx512(Avx512),
}

macro_rules! engine_from {
    ($($token:ident),*) => {
        $(impl From<$token> for Engine {
            fn from(token: $token) -> Self {
                Self { kernel: Kernel::$token(token), asks_xinuse: cpu::has_xinuse() }
            }
        })*
    };
}

engine_from!(Rep, Sse2, Avx2, Avx512);

/// The chosen kernel. One for the whole machine; copied freely.
#[derive(Clone, Copy, Debug)]
pub struct Engine {
    pub(crate) kernel: Kernel,
    /// XGETBV with ECX = 1 exists.
    pub(crate) asks_xinuse: bool,
}

impl Engine {
    /// SSE2, which every x86-64 processor has: needs no probing, for statics and tests.
    pub const SSE2: Self = Self { kernel: Kernel::Sse2(Sse2::BASELINE), asks_xinuse: false };

    /// Chooses a kernel for this processor: the one asked for, or the fastest in a measurement of some
    /// hundred short copies within `scratch`, timed by `clock` (RDTSC).
    ///
    /// Call it with XCR0 as it will be in sessions, on all pCPUs.
    pub fn select(
        choice: Choice,
        scratch: &mut Scratch,
        clock: impl Fn() -> u64,
    ) -> Result<(Self, Selection), Unavailable> {
        if choice == Choice::Auto {
            return Ok(select::fastest(scratch, &clock));
        }
        let engine = Self::of(choice).ok_or(Unavailable(choice))?;
        Ok((engine, Selection::asked(engine)))
    }

    /// The named kernel if it can run here; none for [`Choice::Auto`].
    pub(crate) fn of(choice: Choice) -> Option<Self> {
        match choice {
            Choice::Auto => None,
            Choice::Rep => Rep::new().map(Self::from),
            Choice::Sse2 => Sse2::new().map(Self::from),
            Choice::Avx2 => Avx2::new().map(Self::from),
            Choice::Avx512 => Avx512::new().map(Self::from),
        }
    }

    /// The kernel's name, as `copy=` knows it.
    pub const fn name(&self) -> &'static str {
        match self.kernel {
            Kernel::Rep(_) => Rep::NAME,
            Kernel::Sse2(_) => Sse2::NAME,
            Kernel::Avx2(_) => Avx2::NAME,
            Kernel::Avx512(_) => Avx512::NAME,
        }
    }

    /// Opens a session: once per hypercall, not per element. It saves what the kernel will touch of the
    /// guest's vector state when that first pays; dropping it puts it back.
    #[inline]
    pub fn begin(&self) -> Session<'_> {
        Session::begin(self)
    }
}

#[cfg(test)]
mod tests {
    use std::string::ToString;

    use super::*;

    #[test]
    fn every_choice_reads_back() {
        for choice in Choice::ALL {
            assert_eq!(Choice::parse(choice.name()), Some(choice));
        }
        for word in ["", "AVX2", "avx", "sse", "avx2 ", "movsb"] {
            assert_eq!(Choice::parse(word), None);
        }
    }

    #[test]
    fn a_named_kernel_is_taken_or_refused_by_name() {
        let mut scratch = Scratch::new();
        for choice in &Choice::ALL[1..] {
            match Engine::select(*choice, &mut scratch, || panic!("nothing to measure")) {
                Ok((engine, selection)) => {
                    assert_eq!(engine.name(), choice.name());
                    assert_eq!(selection.to_string(), std::format!("{} (as asked)", choice.name()));
                }
                Err(missing) => {
                    assert!(matches!(choice, Choice::Avx2 | Choice::Avx512));
                    assert!(missing.to_string().starts_with(&std::format!("copy={}: ", choice.name())));
                }
            }
        }
    }
}
