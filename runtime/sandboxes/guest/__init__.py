"""Programs that run inside bubblewrap: the zygote that makes boxes and the supervisor that is process 1 of each box.

Standard library only, shown inside at ``/opt/liverl/guest``. They know neither tasks nor trials, and take orders from
the host over an inherited socket alone.
"""
