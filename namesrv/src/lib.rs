//! The route table and the name server process
