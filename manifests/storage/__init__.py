"""What is kept where: local disks and object stores behind one interface, locks and leases."""
