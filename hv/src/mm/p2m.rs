//! Guest frame to machine frame: the nested page tables of a domain.
