voluntary_ctxt_switches:	24
nonvoluntary_ctxt_switches:	5
voluntary_ctxt_switches:	503
nonvoluntary_ctxt_switches:	0
voluntary_ctxt_switches:	11
nonvoluntary_ctxt_switches:	11
