/* scenes.h: the situations that the server meets, as data: core/ is measured on them. */
#ifndef LET_SIM_SCENES_H
#define LET_SIM_SCENES_H

#include "sim/sim.h"

enum { LET_SCENE_SEEDS = 3, LET_SCENES_MAX = 200 };

/* What a scene asks of core/, beside the two rules that hold for each (see scenes_test.c). */
typedef struct let_scene {
  let_sim_scene sim;
  char name[64];
  bool overload; /* offered clearly more than the gpu-lets can do: goodput is judged */
  double least;  /* attainment that core/ must reach on its own account; 0: none */
} let_scene;

/* Fills |ret|; returns how many there are. */
uint32_t let_scenes(let_scene ret[LET_SCENES_MAX]);

/* Model 0 keeps to its plan; model 1 of the same gpu-let receives |times| its own planned rate. */
uint32_t let_neighbour_scenes(let_scene ret[LET_SCENES_MAX]);

#endif
