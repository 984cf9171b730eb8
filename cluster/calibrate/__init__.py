"""What a host's network traffic costs in CPU: measured once between two guests, kept with the host, asked at admission.

Decisions:

2026-11-25  Counters are the hypervisor's, as for `phx top`: nothing in the guests measures, so a guest whose CPU is cut
            to a twentieth does not disturb its own measurement, and Xen's guests are measured alike.
2026-11-25  A point of the curve is the CPU that was used, not the cap under which it was: where something else was the
            limit, the cap would claim a cost that was not there.
2026-11-25  To and from the guest have curves of their own, and a guest that is promised both needs the sum.
2026-11-25  Beyond what was reached nothing is extrapolated: it is refused.
"""
