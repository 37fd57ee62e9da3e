"""Running on a cluster of several machines: submitting, following and stopping jobs, and scripts for schedulers."""
