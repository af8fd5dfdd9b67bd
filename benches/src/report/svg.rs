//! Colours that follow the reader's theme.
//!
//! plotters writes fixed colours. Plots are drawn in a few that stand for roles; in the text of the picture
//! each is then replaced by a CSS variable, which has a value for light and one for dark.

use plotters::style::RGBColor;

/// Text and axes.
pub const INK: RGBColor = RGBColor(1, 2, 1);
/// Lines of the mesh.
pub const MESH: RGBColor = RGBColor(1, 2, 2);
/// Behind all.
pub const PAPER: RGBColor = RGBColor(1, 2, 3);
/// Our figures.
pub const OURS: RGBColor = RGBColor(1, 2, 4);
/// The baseline's.
pub const PEER: RGBColor = RGBColor(1, 2, 5);
/// Ours, a second kind.
pub const OURS2: RGBColor = RGBColor(1, 2, 6);
/// The baseline's, a second kind.
pub const PEER2: RGBColor = RGBColor(1, 2, 7);

/// Role, variable, light value, dark value.
const THEME: [(RGBColor, &str, &str, &str); 7] = [
    (INK, "--ink", "#1f2328", "#e6e6e6"),
    (MESH, "--mesh", "#d8dbe0", "#3a3f46"),
    (PAPER, "--paper", "#ffffff", "#16181c"),
    (OURS, "--ours", "#0b5cad", "#6cb2ff"),
    (PEER, "--peer", "#b5500b", "#ff9f5a"),
    (OURS2, "--ours2", "#0e8a7d", "#4fd6c6"),
    (PEER2, "--peer2", "#8a3a86", "#e08bdc"),
];

/// The variables, for a style sheet.
pub fn variables() -> String {
    let set = |dark: bool| {
        THEME
            .iter()
            .map(|(_, name, l, d)| format!("{name}:{};", if dark { d } else { l }))
            .collect::<String>()
    };
    format!(
        ":root{{color-scheme:light dark;{}}}@media(prefers-color-scheme:dark){{:root{{{}}}}}",
        set(false),
        set(true)
    )
}

/// The picture with variables in place of the roles' colours.
pub fn themed(svg: &str) -> String {
    THEME.iter().fold(svg.to_owned(), |text, (RGBColor(r, g, b), name, ..)| {
        text.replace(&format!("\"#{r:02X}{g:02X}{b:02X}\""), &format!("\"var({name})\""))
    })
}
