//! `docs/command-line.md` is printed from the option table, the words of module strings in
//! `docs/operators-guide.md` from theirs; these tests keep them equal.
//! `cargo xtask docs` runs them with `TOLLGATE_BLESS=1`, which writes the pages instead.

use std::fmt::Write as _;
use std::path::Path;

use hv::cmdline::{BAD_OPTION, OPTIONS};
use hv::domain::config::WORDS;

fn page() -> String {
    let mut page = String::from(
        "# The hypervisor's command line\n\n\
         <!-- Printed from hv/src/cmdline/table.rs by `cargo xtask docs`; edit the table, not this page. -->\n\n\
         Options are words parted by blanks, `name` or `name=value`. When an option stands twice the later \
         one wins; the items of `gnttab=` add up. A word that is not understood is reported on the console \
         in one line",
    );
    writeln!(page, " beginning `{BAD_OPTION}`, and everything else still applies.\n").expect("a String");
    page.push_str("| Option | Default | Effect |\n|---|---|---|\n");
    for option in OPTIONS {
        let form = option.form.replace('|', "\\|");
        writeln!(page, "| `{form}` | `{}` | {} |", option.default, option.effect).expect("a String");
    }
    for option in OPTIONS {
        writeln!(page, "\n## {}\n\n`{}`\n\n{}", option.name, option.form, option.effect).expect("a String");
        writeln!(page, "{}\n\nDefault: `{}`.", option.text, option.default).expect("a String");
    }
    page
}

#[test]
fn the_page_is_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/command-line.md");
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        std::fs::write(&path, page()).expect("docs/command-line.md is writable");
        return;
    }
    let written = std::fs::read_to_string(&path).expect("docs/command-line.md; `cargo xtask docs` makes it");
    assert!(written == page(), "docs/command-line.md is not the table's; run `cargo xtask docs`");
}

/// Where the words of module strings stand in the guide.
const BEGIN: &str = "<!-- The words of hv/src/domain/config.rs, by `cargo xtask docs`. -->\n";
const END: &str = "<!-- end of words -->";

#[test]
fn the_guide_has_every_word_of_a_module_string() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operators-guide.md");
    let written = std::fs::read_to_string(&path).expect("docs/operators-guide.md");
    let (before, rest) = written.split_once(BEGIN).expect("the words' begin");
    let (_, after) = rest.split_once(END).expect("the words' end");
    let mut page = format!("{before}{BEGIN}| Word | Meaning |\n|---|---|\n");
    for word in WORDS {
        writeln!(page, "| `{}` | {} |", word.form, word.effect).expect("a String");
    }
    write!(page, "{END}{after}").expect("a String");
    if std::env::var_os("TOLLGATE_BLESS").is_some() {
        std::fs::write(&path, page).expect("docs/operators-guide.md is writable");
        return;
    }
    assert!(written == page, "docs/operators-guide.md is not the table's; run `cargo xtask docs`");
}
