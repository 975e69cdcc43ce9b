//! Topics, groups, requests and the broker process
