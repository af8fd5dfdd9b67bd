//! `docs/command-line.md` is printed from the option table; this test keeps them equal.
//! `cargo xtask docs` runs it with `TOLLGATE_BLESS=1`, which writes the page instead.

use std::fmt::Write as _;
use std::path::Path;

use hv::cmdline::{BAD_OPTION, OPTIONS};

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
