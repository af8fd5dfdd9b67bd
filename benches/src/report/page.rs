//! One page with everything in it: no script, nothing fetched.

use super::plots::Plot;
use super::{Input, Verdict, svg};
use crate::ab::Row;
use crate::sim::Simulated;
use std::fmt::Write as _;

const STYLE: &str = "body{background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif;\
max-width:1000px;margin:2em auto;padding:0 1em}table{border-collapse:collapse;width:100%;font-size:14px}\
th,td{border-bottom:1px solid var(--mesh);padding:.3em .5em;text-align:left;vertical-align:top}\
td.n{white-space:nowrap}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{max-width:100%;height:auto}\
pre{background:color-mix(in srgb,var(--mesh) 40%,transparent);padding:1em;overflow-x:auto}\
.yes{color:var(--ours2);font-weight:600}.no{color:var(--peer);font-weight:600}figure{margin:2em 0}\
figcaption{font-size:14px}";

pub fn html(input: &Input, verdicts: &[Verdict], plots: &[Plot]) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Tollgate: grant tables measured</title>\
         <style>{}{STYLE}</style></head><body>\n<h1>Tollgate: grant tables measured</h1>\n\
         <p>Ours against Xen's algorithm in one process, in turns, every answer verified. A ratio above 1 \
         means that ours is faster. Rows with instructions are whole hypercalls of a PVH guest in QEMU, beside \
         Xen 4.17.7 measured by itself.</p>\n",
        svg::variables()
    );
    let profiles = profiles(&input.profiles);
    verdict_table(&mut out, verdicts, &profiles);
    baseline(&mut out, verdicts, input);
    losses(&mut out, &input.rows);
    for plot in plots {
        let _ = writeln!(
            out,
            "<figure>{}<figcaption>{}</figcaption></figure>",
            plot.inline(),
            escape(&plot.caption)
        );
    }
    simulator(&mut out, &input.simulated);
    profile_texts(&mut out, &profiles);
    rows(&mut out, input);
    let _ = writeln!(
        out,
        "<h2>Machine</h2>\n<pre>{}\nmeasured with: {}</pre>\n</body></html>\n",
        escape(input.machine.trim_end()),
        escape(&input.command)
    );
    out
}

/// The sections of the file of profiles: row, and what the profile says.
fn profiles(text: &str) -> Vec<(&str, &str)> {
    let sections = text.split("\n## ").skip(1);
    sections.filter_map(|s| s.split_once('\n')).map(|(row, said)| (row.trim(), said.trim())).collect()
}

fn profile_texts(out: &mut String, profiles: &[(&str, &str)]) {
    if profiles.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Where the instructions go</h2>\n<p>By <code>cargo xtask profile</code>: each instruction of one hypercall, \
         counted by the function it was written in. Of two threads: the time, and the cache lines it goes to.</p>\n",
    );
    for (i, (row, said)) in profiles.iter().enumerate() {
        let _ = writeln!(
            out,
            "<details id=\"profile-{i}\"><summary>{}</summary><pre>{}</pre></details>",
            escape(row),
            escape(&said.replace("```", ""))
        );
    }
}

/// The lengths and offsets at which the baseline is faster, by name.
fn losses(out: &mut String, rows: &[Row]) {
    let cells: Vec<&Row> = rows.iter().filter(|r| r.name.starts_with("sweep.heat.")).collect();
    if cells.is_empty() {
        return;
    }
    let lost: Vec<&&Row> = cells.iter().filter(|r| r.ratio < 1.0).collect();
    let least = cells.iter().min_by(|a, b| a.ratio.total_cmp(&b.ratio));
    let least = least.map_or_else(String::new, |r| format!("{} with a ratio of {:.2}", r.name, r.ratio));
    let _ = writeln!(
        out,
        "<h2>Lengths and offsets where we lose</h2>\n<p>{} of {} cells of the heat map (<code>sweep.heat.LENGTH.OFFSET\
         </code>). The lowest: {}.</p>",
        lost.len(),
        cells.len(),
        escape(&least)
    );
    if !lost.is_empty() {
        out.push_str("<table><tr><th>cell</th><th class=n>ours, ns</th><th class=n>baseline, ns</th><th class=n>ratio</th><th class=n>95 %</th></tr>\n");
        for r in lost {
            let _ = writeln!(
                out,
                "<tr><td>{}</td><td class=n>{:.1}</td><td class=n>{:.1}</td><td class=n>{:.2}</td>\
                 <td class=n>{:.2} - {:.2}</td></tr>",
                escape(&r.name),
                r.ours,
                r.peer,
                r.ratio,
                r.ratio_ci.0,
                r.ratio_ci.1
            );
        }
        out.push_str("</table>\n");
    }
}

fn verdict_table(out: &mut String, verdicts: &[Verdict], profiles: &[(&str, &str)]) {
    out.push_str(
        "<h2>Verdicts</h2>\n<table><tr><th>what</th><th class=n>ours</th><th class=n>baseline or Xen</th>\
         <th class=n>ratio</th><th>to reach</th><th>reached</th><th class=n>facts: shipped / unhardened</th></tr>\n",
    );
    for v in verdicts {
        let class = if v.reached == Some(true) { "yes" } else { "no" };
        let profile = profiles.iter().position(|(row, _)| *row == v.row);
        let profile =
            profile.map_or_else(String::new, |i| format!(" (<a href=\"#profile-{i}\">profile</a>)"));
        let missed = if v.missed.is_empty() { String::new() } else { format!(": {}", escape(&v.missed)) };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=n>{}</td><td class=n>{}</td><td class=n>{}</td><td>{}</td>\
             <td class={class}>{}{missed}{profile}</td><td class=n>{}</td></tr>",
            escape(&v.what),
            v.ours,
            v.peer,
            v.ratio,
            escape(&v.wanted),
            v.word(),
            v.facts
        );
    }
    out.push_str("</table>\n");
}

/// How near the baseline lands to what it stands for.
fn baseline(out: &mut String, verdicts: &[Verdict], input: &Input) {
    let known: Vec<_> = verdicts.iter().filter_map(|v| Some((v, v.landed?, v.baseline?))).collect();
    if known.is_empty() {
        return;
    }
    out.push_str(
        "<h2>The baseline</h2>\n<p>Beside Xen's own object code without speculation barriers, which was measured on \
         another machine (Zen 4, 2.6 GHz, idle). Within 25 % is what it is held to: above, it flatters us; below, it \
         wrongs us. The figures of the facts are not scaled to this machine. Rows of two threads depend on how far \
         apart the two processors are, here and there; a mapping is entered under the lock of the mapper's guest \
         frames, which a translated caller's mappings take and the caller of the facts, a PV one, did not.</p>\n\
         <table><tr><th>row</th><th class=n>baseline here, ns</th><th class=n>facts, unhardened, ns</th>\
         <th class=n>share</th><th>within 25 %</th><th class=n>samples disturbed</th><th class=n>ping-pong, ns</th></tr>\n",
    );
    for (v, (here, facts), share) in known {
        let good = (0.75..=1.25).contains(&share);
        let (class, word) = if good { ("yes", "yes") } else { ("no", "no") };
        let row = input.rows.iter().find(|r| r.name == v.row);
        let disturbed = row.map_or_else(|| "-".into(), |r| r.samples.saturating_sub(r.clean).to_string());
        let apart = row.and_then(|r| r.lines).map_or_else(|| "-".into(), |l| format!("{:.0}", l.ping_pong));
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td class=n>{here:.1}</td><td class=n>{facts:.0}</td><td class=n>{:.0} %</td>\
             <td class={class}>{word}</td><td class=n>{disturbed}</td><td class=n>{apart}</td></tr>",
            escape(&v.what),
            share * 100.0
        );
    }
    out.push_str("</table>\n");
}

/// How far the simulator holds: its word for what was measured as well.
fn simulator(out: &mut String, simulated: &Simulated) {
    let Some(machine) = simulated.machine else { return };
    let _ = writeln!(
        out,
        "<h2>How far the simulator holds</h2>\n<p>It runs the shipped code on a model of who owns which cache \
         line. The model's costs are this machine's, measured by themselves beside each row of two threads; what \
         the code does besides is taken from the row of one thread, and two threads and more are the model's \
         word. The middle of those costs, used for the plots: a locked addition to a line of one's own {:.1} ns, \
         a store and a full barrier {:.1} ns, one way of a ping-pong {:.0} ns, an addition to a word that another \
         processor adds to {:.1} ns, to a line taken over from it {:.0} ns. A virtual machine's processors may be \
         near each other in one row and far apart in the next; each line below is with the costs measured just \
         before it. Each is run with both threads in step and later and later, and both with misses \
         that pass beside other work as those of independent lines do here and with misses that are all waited for: \
         the mean, and the least and the most.</p>\n<table><tr><th>row</th><th>engine</th>\
         <th class=n>ping-pong, ns</th><th class=n>measured, ns</th><th class=n>model, ns</th>\
         <th class=n>least - most</th><th class=n>model / measured</th></tr>",
        machine.locked, machine.store_fence, machine.ping_pong, machine.contended, machine.taken
    );
    for c in &simulated.checks {
        // A twentieth beside the range is rounding and noise.
        let within = c.measured >= c.range.0 * 0.95 && c.measured <= c.range.1 * 1.05;
        let class = if within { "n" } else { "\"n no\"" };
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=n>{:.0}</td><td class=n>{:.1}</td><td class=n>{:.1}</td>\
             <td class=n>{:.0} - {:.0}</td><td class={class}>{:.0} %</td></tr>",
            escape(&c.name),
            c.engine,
            c.ping_pong,
            c.measured,
            c.model,
            c.range.0,
            c.range.1,
            c.share() * 100.0
        );
    }
    out.push_str(
        "</table>\n<p>Marked: measured outside what the model says. It knows neither which accesses depend on \
         each other, nor prefetching, nor caches of limited size; read the plots for where lines begin to be \
         queued for, not for nanoseconds.</p>\n",
    );
}

fn rows(out: &mut String, input: &Input) {
    out.push_str(
        "<h2>All rows</h2>\n<details><summary>Medians, with the 95 % interval of the ratio</summary><table>\
         <tr><th>row</th><th>unit</th><th class=n>ours</th><th class=n>baseline</th><th class=n>ratio</th>\
         <th class=n>95 %</th><th class=n>samples (undisturbed)</th></tr>\n",
    );
    for r in &input.rows {
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=n>{:.1}</td><td class=n>{:.1}</td><td class=n>{:.2}</td>\
             <td class=n>{:.2} - {:.2}</td><td class=n>{} ({})</td></tr>",
            escape(&r.name),
            r.unit,
            r.ours,
            r.peer,
            r.ratio,
            r.ratio_ci.0,
            r.ratio_ci.1,
            r.samples,
            r.clean
        );
    }
    out.push_str("</table></details>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
