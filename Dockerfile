# The image holds one static program and nothing else. Build it first:
#   cargo build --profile dist --target x86_64-unknown-linux-musl --package gantry
# and give this file the folder with the program as its context. Tests make the same image
# without a daemon, by `e2e/cluster/cluster image`.
FROM scratch
COPY gantry /gantry
USER 65532:65532
ENTRYPOINT ["/gantry"]
